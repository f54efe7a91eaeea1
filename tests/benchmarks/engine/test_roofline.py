"""The bound's arithmetic, against sums made by hand."""

import pytest

from benchmarks.engine.roofline import Machine, ModelSizes, generation_bound, sizes_of, step_bound

SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
}
LAYER = {
    "q": (576, 576),
    "k": (192, 576),
    "v": (192, 576),
    "o": (576, 576),
    "gate": (1536, 576),
    "up": (1536, 576),
    "down": (576, 1536),
}


def smollm2() -> ModelSizes:
    modules = {f"{n}.{name}": shape for n in range(30) for name, shape in LAYER.items()}
    return sizes_of(SMOLLM2, modules, 8, weight_bytes=4, value_bytes=4)


TINY = ModelSizes(
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    linear_weights=1000,
    head_weights=500,
    adapter_weights=60,
    weight_bytes=4,
    value_bytes=4,
)


def test_sizes_of_a_known_model() -> None:
    sizes = smollm2()
    assert sizes.linear_weights + sizes.head_weights == 134_479_872
    assert sizes.adapter_weights == 2_442_240


def test_a_compute_bound_machine_gives_the_known_485_tokens_a_second() -> None:
    machine = Machine(gemm_flops=132e9, linear_flops=132e9, bandwidth=28e9)
    bound = step_bound(smollm2(), machine, [()] * 16, tokens=1, context=64)
    assert bound.seconds == bound.flops_s > bound.bytes_s
    assert 16 / bound.seconds == pytest.approx(485, rel=0.01)


def test_a_memory_bound_machine_pays_for_each_adapter_once() -> None:
    machine = Machine(gemm_flops=320e9, linear_flops=320e9, bandwidth=29e9)
    base = step_bound(smollm2(), machine, [()] * 16, tokens=1, context=0)
    one = step_bound(smollm2(), machine, [((0, 1.0),)] * 16, tokens=1, context=0)
    many = step_bound(smollm2(), machine, [((i, 1.0),) for i in range(16)], tokens=1, context=0)
    assert base.seconds == base.bytes_s
    assert one.nbytes - base.nbytes == 4 * 2_442_240
    assert many.nbytes - base.nbytes == 16 * 4 * 2_442_240
    assert many.seconds / base.seconds == pytest.approx(1.29, abs=0.005)
    assert one.flops == many.flops


def test_bytes_and_flops_of_a_decode_step() -> None:
    machine = Machine(gemm_flops=10.0, linear_flops=100.0, bandwidth=1000.0)
    mixtures = [(), ((0, 1.0), (1, 0.5)), ((1, 1.0),)]
    bound = step_bound(TINY, machine, mixtures, tokens=1, context=9)
    kv = 3 * 9 * (2 * 2 * 8 * 2) * 4
    assert bound.nbytes == 1500 * 4 + 2 * 60 * 4 + kv
    linear = 2 * 3 * 1500
    small = 2 * 3 * 60 + 4 * (3 * 10) * 4 * 8 * 2
    assert bound.flops == linear + small
    assert bound.bytes_s == bound.nbytes / 1000
    assert bound.flops_s == pytest.approx(linear / 100 + small / 10)
    assert bound.seconds == max(bound.bytes_s, bound.flops_s)


def test_a_prefill_samples_one_row_and_looks_back_causally() -> None:
    machine = Machine(1.0, 1.0, 1.0)
    bound = step_bound(TINY, machine, [()], tokens=5, context=0)
    attention = 4 * (1 + 2 + 3 + 4 + 5) * 4 * 8 * 2
    assert bound.flops == 2 * (5 * 1000 + 500) + attention


def test_a_generation_is_its_prefills_and_its_decodes() -> None:
    machine = Machine(1.0, 1.0, 1.0)
    mixtures = [(), ((0, 1.0),), ()]
    prefill = [
        step_bound(TINY, machine, group, tokens=4, context=0).seconds
        for group in (mixtures[:2], mixtures[2:])
    ]
    decode = step_bound(TINY, machine, mixtures, tokens=1, context=5.5).seconds
    found = generation_bound(TINY, machine, mixtures, prompt=4, output=4, together=2)
    assert found == pytest.approx(sum(prefill) + 3 * decode)
