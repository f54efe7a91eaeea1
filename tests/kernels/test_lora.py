"""The fused multi-LoRA operator against its reference."""

import pytest
import torch

from kernels.errors import StaleBatchError
from kernels.lora.bank import AdapterBank
from kernels.lora.lora_batch import LoraBatch
from kernels.lora.lora_reference import add_lora_reference
from kernels.lora.sites import FusedSite
from kernels.lora.torch_ops import add_lora
from kernels.tolerances import assert_close

SITES = (
    FusedSite("qkv", 37, (("q", 41), ("k", 13), ("v", 13))),
    FusedSite("o", 41, (("o", 37),)),
    FusedSite("gate_up", 37, (("gate", 75), ("up", 75))),
    FusedSite("down", 75, (("down", 37),)),
)
SHAPES = {path: (site.in_features, width) for site in SITES for path, width in site.out_slices}


@pytest.fixture(params=["native", "torch"], autouse=True)
def path(request, monkeypatch):
    """Both ways of computing few rows; a machine without the first has the second."""
    if request.param == "torch":
        monkeypatch.setattr("kernels.lora.lora_batch.native_groups_available", lambda _: False)
    return request.param


def make_adapter(rank, modules=tuple(SHAPES), scaling=2.0):
    return {
        path: (
            torch.randn(rank, SHAPES[path][0]),
            torch.randn(SHAPES[path][1], rank) / rank,
            scaling,
        )
        for path in modules
    }


def make_bank(adapters, slots=16, max_rank=128, dtype=torch.float32):
    bank = AdapterBank(SITES, slots, max_rank, dtype)
    for slot, tensors in adapters.items():
        bank.write(slot, tensors)
    return bank


def check(adapters, rows, bank=None, dtype=torch.float32):
    """Assert that every site's result for these rows equals the reference."""
    bank = bank or make_bank(adapters, dtype=dtype)
    batch = LoraBatch.build(rows, bank)
    mixtures = [mixture for count, mixture in rows for _ in range(count)]
    for index, site in enumerate(SITES):
        x = torch.randn(len(mixtures), site.in_features).to(dtype)
        y = torch.randn(len(mixtures), site.out_features).to(dtype)
        want = add_lora_reference(y, x, adapters, site.out_slices, mixtures)
        if batch is not None:
            add_lora(y, x, bank, index, batch)
        assert_close("lora", y, want)


@pytest.mark.parametrize("rank", [1, 3, 8, 16, 64, 128])
@pytest.mark.parametrize("tokens", [1, 2, 40], ids=lambda n: f"tokens{n}")
def test_one_adapter(rank, tokens):
    check({0: make_adapter(rank)}, [(tokens, ((0, 1.0),))])


@pytest.mark.parametrize("rank", [1, 3, 8, 16, 64, 128])
def test_an_adapter_for_each_row(rank):
    adapters = {slot: make_adapter(rank) for slot in range(5)}
    check(adapters, [(1, ((slot, 1.0),)) for slot in (3, 0, 4, 1, 2)])


def test_mixed_ranks_in_a_batch():
    adapters = {slot: make_adapter(rank) for slot, rank in enumerate((1, 3, 8, 8, 16, 64))}
    check(adapters, [(1, ((slot, 1.0),)) for slot in (5, 0, 3, 2, 1, 4, 3)])


def test_ranks_that_differ_between_modules():
    uneven = {path: make_adapter(rank)[path] for rank, path in enumerate(SHAPES, start=1)}
    check({0: uneven, 1: make_adapter(4)}, [(1, ((0, 1.0),)), (1, ((1, 1.0),)), (3, ((0, 0.5),))])


@pytest.mark.parametrize(
    "weights", [(0.7, 0.3), (-0.4, 1.6), (2.5, -3.0), (1e-4, 1.0)], ids=lambda w: f"{w[0]}/{w[1]}"
)
def test_weights_are_any_real(weights):
    adapters = {0: make_adapter(8), 1: make_adapter(8)}
    mixture = tuple(enumerate(weights))
    check(adapters, [(1, mixture), (1, mixture[::-1]), (5, mixture)])


@pytest.mark.parametrize("k", [2, 4, 8])
def test_k_adapters_per_row(k):
    adapters = {slot: make_adapter(8 if slot % 3 else 4) for slot in range(12)}
    rows = [
        (1, tuple(((row + 5 * term) % 12, 0.1 * (term + 1)) for term in range(k)))
        for row in range(9)
    ]
    check(adapters, rows)


def test_the_same_adapter_under_different_weights():
    adapters = {0: make_adapter(8), 1: make_adapter(8)}
    check(adapters, [(1, ((0, w),)) for w in (1.0, -0.5, 2.0)] + [(1, ((1, 0.3), (0, 0.1)))])


def test_an_adapter_named_twice_counts_with_the_sum():
    adapters = {0: make_adapter(8)}
    check(adapters, [(1, ((0, 0.7), (0, 0.6)))])


def test_base_rows_between_adapter_rows():
    adapters = {slot: make_adapter(8) for slot in range(4)}
    rows = [(1, ()), (1, ((0, 1.0),)), (3, ()), (1, ((1, 1.0),)), (1, ()), (2, ((2, 0.5),))]
    check(adapters, rows)


def test_modules_missing_from_some_adapters():
    adapters = {
        0: make_adapter(8, ("q", "v")),
        1: make_adapter(8, ("down",)),
        2: make_adapter(8),
        3: make_adapter(8, ("q", "v")),
    }
    check(adapters, [(1, ((slot, 1.0),)) for slot in (0, 1, 2, 3)] + [(1, ((0, 0.5), (2, 0.5)))])


def test_prefill_and_decode_in_one_batch():
    adapters = {slot: make_adapter(8) for slot in range(6)}
    rows = [(70, ((0, 1.0),)), (1, ((1, 1.0),)), (33, ((2, 0.5), (0, 0.5))), (1, ((2, 1.0),))]
    rows += [(1, ((3, 1.0), (4, -1.0))), (1, ()), (40, ((0, 2.0),)), (2, ((5, 1.0),))]
    check(adapters, rows)


def test_one_adapter_in_scattered_rows():
    adapters = {0: make_adapter(8), 1: make_adapter(3)}
    check(adapters, [(1, ((0, 1.0),)), (1, ()), (1, ((0, 0.5),)), (1, ((1, 1.0),))] * 12)


def test_unequal_groups():
    adapters = {slot: make_adapter(8) for slot in range(8)}
    rows = [(1, ((0, 1.0), (1, 0.5)))] * 150 + [(1, ((slot, 1.0),)) for slot in range(8)]
    check(adapters, rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision(dtype):
    adapters = {slot: make_adapter(8) for slot in range(3)}
    rows = [(1, ((0, 1.0),)), (1, ((1, 0.5), (2, 0.5))), (1, ()), (40, ((2, 1.0),))]
    check(adapters, rows, dtype=dtype)


def test_scattered_slots_are_gathered_and_followed():
    """Sets of adapters that come and go, far apart in the bank, with slots rewritten between."""
    adapters = {slot: make_adapter(8) for slot in range(16)}
    bank = make_bank(adapters)
    for step in range(12):
        active = sorted({(step * 5 + 4 * i) % 16 for i in range(1 + step % 4)} | {0, 15})
        check(adapters, [(1, ((slot, 0.5 + slot),)) for slot in active], bank)
        adapters[15] = make_adapter(8)
        bank.write(15, adapters[15])
        bank.check_integrity()


def test_a_working_set_shrinks_and_grows_again():
    adapters = {slot: make_adapter(8) for slot in range(16)}
    bank = make_bank(adapters)
    for active in [(0, 7, 15), (0, 15), (0, 7, 15), (3, 9, 15), (0, 15), (0, 4, 9, 15)]:
        check(adapters, [(1, ((slot, 1.0),)) for slot in active], bank)


def test_a_refilled_slot_of_the_working_set_is_read_anew():
    adapters = {slot: make_adapter(8) for slot in range(16)}
    bank = make_bank(adapters)
    rows = [(1, ((slot, 1.0),)) for slot in (0, 7, 15)]
    check(adapters, rows, bank)
    bank.clear(7)
    adapters[7] = make_adapter(8)
    bank.write(7, adapters[7])
    check(adapters, rows, bank)


def test_a_slot_refilled_after_its_lane_has_grown_is_read_anew():
    adapters = {slot: make_adapter(8) for slot in range(4)}
    bank = make_bank(adapters)
    rows = [(1, ((slot, 1.0),)) for slot in (0, 1, 2, 3)]
    check(adapters, rows, bank)
    for slot in range(4, 16):
        bank.write(slot, make_adapter(8))
    bank.clear(2)
    adapters[2] = make_adapter(8)
    bank.write(2, adapters[2])
    check(adapters, rows, bank)


def test_no_work_means_no_batch():
    bank = make_bank({0: make_adapter(8)})
    assert LoraBatch.build([], bank) is None
    assert LoraBatch.build([(4, ()), (1, ())], bank) is None
    assert LoraBatch.build([(4, ((0, 0.0),))], bank) is None
    assert LoraBatch.build([(1, ((0, 0.5), (0, -0.5)))], bank) is None
    assert LoraBatch.build([(0, ((0, 1.0),))], bank) is None


def test_base_rows_of_a_mixed_batch_keep_their_bits():
    adapters = {0: make_adapter(8), 1: make_adapter(8)}
    bank = make_bank(adapters)
    batch = LoraBatch.build([(1, ((0, 1.0),)), (1, ()), (1, ((1, 1.0),)), (1, ((0, 0.0),))], bank)
    x, y = torch.randn(4, 37), torch.randn(4, 67)
    got = y.clone()
    add_lora(got, x, bank, 0, batch)
    assert torch.equal(got[[1, 3]], y[[1, 3]])
    assert not torch.equal(got[[0, 2]], y[[0, 2]])


def test_a_site_without_adapters_is_left_alone():
    bank = make_bank({0: make_adapter(8, ("q",))})
    batch = LoraBatch.build([(2, ((0, 1.0),))], bank)
    y = torch.randn(2, 37)
    got = y.clone()
    add_lora(got, torch.randn(2, 41), bank, 1, batch)
    assert torch.equal(got, y)


def test_a_broken_adapter_reaches_only_its_own_rows():
    adapters = {slot: make_adapter(8) for slot in range(4)}
    adapters[1] = {p: (a, b * float("nan"), s) for p, (a, b, s) in adapters[1].items()}
    bank = make_bank(adapters)
    rows = [(1, ((0, 1.0),)), (1, ((1, 1.0),)), (1, ((2, 1.0), (3, 0.5))), (1, ())]
    y = torch.randn(4, 67)
    add_lora(y, torch.randn(4, 37), bank, 0, LoraBatch.build(rows, bank))
    assert y[[0, 2, 3]].isfinite().all()
    assert y[1].isnan().all()


def test_a_broken_token_reaches_only_its_own_row():
    bank = make_bank({slot: make_adapter(8) for slot in range(3)})
    rows = [(1, ((0, 1.0),)), (1, ((0, 1.0), (1, 1.0))), (1, ((2, 1.0),))]
    x, y = torch.randn(3, 37), torch.randn(3, 67)
    x[0] = float("inf")
    add_lora(y, x, bank, 0, LoraBatch.build(rows, bank))
    assert y[1:].isfinite().all()


def test_a_row_alone_agrees_with_the_row_in_company():
    adapters = {slot: make_adapter(8 if slot < 6 else 16) for slot in range(8)}
    bank = make_bank(adapters)
    rows = [(1, ((slot, 0.7), ((slot + 3) % 8, -0.3))) for slot in range(8)]
    x = torch.randn(8, 37)
    together = torch.zeros(8, 67)
    add_lora(together, x, bank, 0, LoraBatch.build(rows, bank))
    for index, row in enumerate(rows):
        alone = torch.zeros(1, 67)
        add_lora(alone, x[index : index + 1], bank, 0, LoraBatch.build([row], bank))
        assert_close("lora", together[index : index + 1], alone)


def test_agrees_with_weights_merged_as_peft_does():
    """W + sum_k w_k * scaling_k * B_k A_k, applied as one dense matrix."""
    adapters = {0: make_adapter(8, scaling=0.5), 1: make_adapter(3, scaling=4.0)}
    bank = make_bank(adapters)
    base, x = torch.randn(37, 41), torch.randn(5, 41)
    mixture = ((0, 0.8), (1, -0.2))
    merged = base + sum(
        w * adapters[s]["o"][2] * adapters[s]["o"][1] @ adapters[s]["o"][0] for s, w in mixture
    )
    y = x @ base.t()
    add_lora(y, x, bank, 1, LoraBatch.build([(5, mixture)], bank))
    assert_close("lora", y, x @ merged.t())


def test_a_batch_serves_many_steps():
    adapters = {slot: make_adapter(8) for slot in range(3)}
    bank = make_bank(adapters)
    rows = [(1, ((slot, 1.0),)) for slot in range(3)]
    batch = LoraBatch.build(rows, bank)
    bank.write(9, make_adapter(8))
    for _ in range(2):
        x, y = torch.randn(3, 37), torch.randn(3, 67)
        want = add_lora_reference(y, x, adapters, SITES[0].out_slices, [m for _, m in rows])
        add_lora(y, x, bank, 0, batch)
        assert_close("lora", y, want)


def test_a_batch_whose_working_set_moved_on_is_refused():
    bank = make_bank({slot: make_adapter(8) for slot in range(16)}, dtype=torch.bfloat16)
    first = LoraBatch.build([(1, ((0, 1.0),)), (1, ((15, 1.0),))], bank)
    same = LoraBatch.build([(1, ((15, 1.0),)), (1, ((0, 2.0),))], bank)
    assert first.valid
    assert same.valid
    LoraBatch.build([(1, ((1, 1.0),)), (1, ((14, 1.0),))], bank)
    assert not first.valid
    x, y = torch.zeros(2, 37).bfloat16(), torch.zeros(2, 67).bfloat16()
    with pytest.raises(StaleBatchError):
        add_lora(y, x, bank, 0, first)


def by_pair(batch, table):
    """Gather [pairs, ...] out of ``table[token][term]``."""
    pairs = zip(batch.pair_tokens.tolist(), batch.pair_terms.tolist(), strict=True)
    return torch.tensor([table[token][term] for token, term in pairs])


ROWS = [(1, ((4, 1.0), (1, 1.0))), (40, ((2, 1.0),)), (1, ()), (1, ((1, 1.0), (0, 1.0), (3, 1.0)))]


def test_weights_of_each_token_replace_those_of_the_batch():
    adapters = {slot: make_adapter(rank) for slot, rank in enumerate((3, 8, 8, 16, 8))}
    bank = make_bank(adapters)
    batch = LoraBatch.build(ROWS, bank)
    rows = [mixture for count, mixture in ROWS for _ in range(count)]
    table = [torch.randn(len(mixture)).tolist() for mixture in rows]
    mixtures = [
        tuple((slot, weight) for (slot, _), weight in zip(mixture, weights, strict=True))
        for mixture, weights in zip(rows, table, strict=True)
    ]
    for index, site in enumerate(SITES):
        x, y = torch.randn(43, site.in_features), torch.randn(43, site.out_features)
        want = add_lora_reference(y, x, adapters, site.out_slices, mixtures)
        add_lora(y, x, bank, index, batch, by_pair(batch, table))
        assert_close("lora", y, want)


def test_a_weight_of_zero_leaves_a_module_out():
    adapters = {slot: make_adapter(8) for slot in range(5)}
    bank = make_bank(adapters)
    batch = LoraBatch.build(ROWS, bank)
    site = SITES[0]
    x, y = torch.randn(43, site.in_features), torch.randn(43, site.out_features)
    want = y.clone()
    for index, (path, _) in enumerate(site.out_slices):
        alone = {slot: {path: tensors[path]} for slot, tensors in adapters.items()}
        scale = (0.0, 1.0, -0.5)[index]
        mixtures = [
            tuple((slot, weight * scale) for slot, weight in mixture)
            for count, mixture in ROWS
            for _ in range(count)
        ]
        want = add_lora_reference(want, x, alone, site.out_slices, mixtures)
    untouched = y[:, :41].clone()
    weights = batch.weights[:, None] * torch.tensor([0.0, 1.0, -0.5])
    add_lora(y, x, bank, 0, batch, weights)
    assert_close("lora", y, want)
    assert torch.equal(y[:, :41], untouched)


@pytest.mark.parametrize("rank", [1, 3, 8, 17])
def test_adapters_held_in_bf16(rank):
    adapters = {slot: make_adapter(rank, scaling=1.5) for slot in range(5)}
    rounded = {
        slot: {
            path: (a.bfloat16().float(), (b * s).bfloat16().float(), 1.0)
            for path, (a, b, s) in tensors.items()
        }
        for slot, tensors in adapters.items()
    }
    bank = AdapterBank(SITES, 16, 128, storage=torch.bfloat16)
    exact = make_bank({})
    for slot, tensors in adapters.items():
        bank.write(slot, tensors)
        exact.write(slot, tensors)
    check(rounded, ROWS, bank)
    assert bank.nbytes(0) * 2 == exact.nbytes(0)
    ranks = dict.fromkeys(SHAPES, rank)
    assert bank.required_nbytes(ranks) == bank.nbytes(0)


def test_weights_that_do_not_fit_are_refused():
    bank = make_bank({0: make_adapter(8), 1: make_adapter(8)})
    batch = LoraBatch.build([(1, ((0, 1.0),)), (1, ((1, 1.0),))], bank)
    for shape in ((1,), (2, 2), (3, 3), (2, 3, 1)):
        with pytest.raises(ValueError, match="do not fit 2 pairs and 3 slices"):
            add_lora(torch.zeros(2, 67), torch.zeros(2, 37), bank, 0, batch, torch.ones(shape))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_row_is_the_same_in_any_batch(threads, path):
    adapters = {slot: make_adapter(rank) for slot, rank in enumerate((3, 8, 8, 17, 8, 64))}
    bank = make_bank(adapters)
    rows = [(1, ((slot, 0.5), ((slot + 1) % 6, 2.0))) for slot in range(6)] + [(1, ((0, 1.0),))]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for index, site in enumerate(SITES):
            x, y = torch.randn(7, site.in_features), torch.randn(7, site.out_features)
            alone = [row.clone() for row in y.split(1)]
            add_lora(y, x, bank, index, LoraBatch.build(rows, bank))
            for token, row in enumerate(alone):
                batch = LoraBatch.build([rows[token]], bank)
                add_lora(row, x[token : token + 1], bank, index, batch)
                if path == "native":
                    assert torch.equal(row[0], y[token])
                else:  # batched matmuls of another size sum in another order
                    assert_close("lora", row[0], y[token])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_must_be_finite(weight):
    with pytest.raises(ValueError, match="not finite"):
        LoraBatch.build([(1, ((0, weight),))], make_bank({0: make_adapter(8)}))


def test_an_empty_slot_is_refused():
    with pytest.raises(ValueError, match="slot 3 holds no adapter"):
        LoraBatch.build([(1, ((3, 1.0),))], make_bank({0: make_adapter(8)}))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.zeros(3, 37), torch.zeros(3, 67)),
        (torch.zeros(2, 36), torch.zeros(2, 67)),
        (torch.zeros(2, 37), torch.zeros(2, 66)),
        (torch.zeros(2, 37, dtype=torch.bfloat16), torch.zeros(2, 67)),
    ],
    ids=["tokens", "inputs", "outputs", "dtype"],
)
def test_misfits_are_refused(x, y):
    bank = make_bank({0: make_adapter(8)})
    batch = LoraBatch.build([(2, ((0, 1.0),))], bank)
    with pytest.raises(ValueError, match="qkv"):
        add_lora(y, x, bank, 0, batch)


@pytest.mark.slow
@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [2, 5, 63, 64, 131])
def test_a_token_is_itself_in_any_step(path, tokens, storage):
    """To the last bit, alone or in a block of four, by groups, by phases or by tokens."""
    bank = AdapterBank(SITES, 4, 128, storage=storage)
    for slot, rank in enumerate((8, 3, 17)):
        bank.write(slot, make_adapter(rank))
    mixtures = [
        ((t % 3, 0.5), ((t + 1) % 3, -1.0)) if t % 4 else ((0, 1.0),) for t in range(tokens)
    ]
    together = LoraBatch.build([(1, mixture) for mixture in mixtures], bank)
    for index, site in enumerate(SITES):
        x, y = torch.randn(tokens, site.in_features), torch.randn(tokens, site.out_features)
        got = y.clone()
        add_lora(got, x, bank, index, together)
        for token in {0, 1, tokens // 2, tokens - 1}:
            row = slice(token, token + 1)
            alone = y[row].clone()
            add_lora(alone, x[row], bank, index, LoraBatch.build([(1, mixtures[token])], bank))
            if path == "native":
                assert torch.equal(alone, got[row])
            else:  # matmuls of other shapes round otherwise
                assert_close("lora", alone, got[row])


def test_a_weight_of_zero_takes_nothing_from_a_token_that_is_not_finite(path):
    """Weights replaced per pair, in blocks where other tokens do have one."""
    bank = make_bank({0: make_adapter(4)})
    batch = LoraBatch.build([(6, ((0, 1.0),))], bank)
    x, y = torch.full((6, 37), 1e38), torch.randn(6, 67)
    x[1::2] = torch.randn(3, 37)
    weights = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    got = y.clone()
    add_lora(got, x, bank, 0, batch, weights)
    if path == "native":
        assert torch.equal(got[::2], y[::2])
    assert bool(torch.isfinite(got[1::2]).all())
