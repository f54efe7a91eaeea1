"""The engine's steps through the Triton kernels, against the same steps through torch's."""

import pytest
import torch

from cluster.config import EngineConfig
from cluster.engine.execution.step_batches import TorchBatches, triton_batches
from kernels.lora.bank import AdapterBank
from kernels.lora.lora_triton_batch import TritonLoraBatch
from kernels.lora.sites import FusedSite
from kernels.lora.triton_warm_up import compile_kernels
from tests.support.engine_steps import Case, Recorded, Steps

pytestmark = pytest.mark.usefixtures("interpreted_kernels")

CONFIG = EngineConfig(
    device="cpu",
    block_size=4,
    kv_blocks=32,
    max_model_len=32,
    max_batch_size=4,
    max_batch_tokens=16,
)
PAIRS = 2

MIXED = {
    "base": Case(3),
    "adapter": Case(6, ((1, 0.8),)),
    "mixture": Case(2, ((0, 1.0), (2, -0.5)), tokens=2),
    "chunked": Case(21, ((2, 1.2), (1, 0.4)), tokens=2),
}
GATED = {
    "gate": Case(4, ((0, 1.0), (1, 1.0)), gate="layer"),
    "by site": Case(3, ((2, 1.0), (0, 0.7)), gate="site"),
    "fixed": Case(2, ((1, 1.0),)),
}


def over_triton(capture=None):
    def make(loaded, config, bank):
        larger = TorchBatches(bank, config.block_size, loaded.dtype, loaded.device)
        return triton_batches(loaded, config, bank, larger, capture, PAIRS)

    return make


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name, rows in want.items():
        torch.testing.assert_close(
            got[name], rows, atol=2e-4, rtol=2e-4, msg=lambda m, n=name: n + m
        )


@pytest.fixture
def torch_steps(tiny_model):
    return Steps(tiny_model("llama"), CONFIG)


@pytest.mark.parametrize("captured", [False, True])
def test_mixed_steps(tiny_model, torch_steps, captured):
    capture = Recorded() if captured else None
    steps = Steps(tiny_model("llama"), CONFIG, over_triton(capture))
    want = torch_steps.run(MIXED)
    assert_same(steps.run(MIXED), want)
    assert steps.mixed
    if capture is not None:
        assert capture.captured == [4, 4, 2, 2, 1, 1]
        assert capture.replays


def test_gates(tiny_model, torch_steps):
    capture = Recorded()
    steps = Steps(tiny_model("llama"), CONFIG, over_triton(capture))
    assert_same(steps.run(GATED), torch_steps.run(GATED))


def test_captured_steps_between_gated_ones(tiny_model, torch_steps):
    capture = Recorded()
    steps = Steps(tiny_model("llama"), CONFIG, over_triton(capture))
    for cases in (
        {"a": Case(2, ((0, 1.0),)), "b": Case(3)},
        {"c": Case(2, ((0, 1.0), (1, 1.0)), gate="layer")},
        {"d": Case(2, ((0, 1.0),)), "e": Case(3, ((1, -1.0),))},
        {"f": Case(3), "g": Case(1)},
    ):
        assert_same(steps.run(cases), torch_steps.run(cases))
    assert capture.replays


def test_the_modules_of_a_model_that_is_not_known(tiny_model, torch_steps):
    steps = Steps(tiny_model("llama"), CONFIG, over_triton())
    steps.runner._fused = None
    cases = {"base": Case(5, tokens=2), "adapter": Case(3, ((1, 0.8),), tokens=2)}
    assert_same(steps.run(cases), torch_steps.run(cases))


def test_kernels_are_compiled_in_both_forms_at_every_site_and_nothing_is_left(record_launches):
    sites = (FusedSite("kv", 16, (("k", 16), ("v", 5))), FusedSite("o", 8, (("o", 16),)))
    bank = AdapterBank(sites, 2, 4)
    batch = TritonLoraBatch(bank, max_tokens=8, max_rows=2, max_pairs=2)
    compile_kernels(batch)
    launches = record_launches("kernels.lora.lora_triton_ops")
    compile_kernels(batch)
    assert sorted(launch.name for launch in launches) == sorted(
        ["decode_shrink", "decode_expand", "runs_shrink", "runs_expand"] * 2
    )
    assert not bank.occupied
    assert batch.tokens == 0
