"""The Triton multi-LoRA kernels against the operator's reference, in Triton's interpreter."""

import math
from importlib import import_module

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.lora.bank import AdapterBank
from kernels.lora.lora_batch import LoraBatch
from kernels.lora.lora_reference import add_lora_reference
from kernels.lora.lora_triton_batch import (
    FEW_PROGRAMS,
    TILE_TOKENS,
    Form,
    TritonLoraBatch,
)
from kernels.lora.lora_triton_dispatch import add_lora_operator, available
from kernels.lora.sites import FusedSite
from kernels.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("interpreted_kernels")

SITES = (
    FusedSite("qkv", 37, (("q", 141), ("k", 13), ("v", 16))),
    FusedSite("o", 48, (("o", 32),)),
)
RANKS = (1, 2, 3, 8, 16, 17, 64, 128)


def shapes(sites):
    return {path: (site.in_features, width) for site in sites for path, width in site.out_slices}


def make_adapter(rank, modules=None, sites=SITES, scaling=2.0):
    return {
        path: (torch.randn(rank, d_in), torch.randn(width, rank) / rank, scaling)
        for path, (d_in, width) in shapes(sites).items()
        if modules is None or path in modules
    }


def make_bank(adapters, sites=SITES, dtype=torch.float32, slots=16):
    bank = AdapterBank(sites, slots, 128, dtype)
    for slot, tensors in adapters.items():
        bank.write(slot, tensors)
    return bank


def make_batch(bank, tokens=96, rows=16, pairs=8):
    return TritonLoraBatch(bank, max_tokens=tokens, max_rows=rows, max_pairs=pairs)


def add_lora(y, x, site_index, batch, weights=None):
    add_lora_operator()(y, x, site_index, batch, weights)


def per_token(rows):
    return [mixture for count, mixture in rows for _ in range(count)]


def check(adapters, rows, batch=None, sites=SITES, dtype=torch.float32, form=None):
    """Assert that every site's result for these rows equals the reference.

    Rows without adapters keep their bits.
    """
    batch = batch or make_batch(make_bank(adapters, sites, dtype))
    batch.update(rows)
    if form is not None:
        assert batch.form is form
    mixtures = per_token(rows)
    plain = [t for t, mixture in enumerate(mixtures) if not any(w for _, w in mixture)]
    for index, site in enumerate(sites):
        x = torch.randn(len(mixtures), site.in_features).to(dtype)
        y = torch.randn(len(mixtures), site.out_features).to(dtype)
        want = add_lora_reference(y, x, adapters, site.out_slices, mixtures)
        before = y.clone()
        add_lora(y, x, index, batch)
        assert_close("lora", y, want)
        assert torch.equal(y[plain], before[plain])


def test_only_a_gpu_is_served():
    assert not available(torch.device("cpu"))


@pytest.mark.parametrize("rank", RANKS)
def test_rank_in_decode(rank):
    check({0: make_adapter(rank)}, [(1, ((0, 1.5),)), (1, ()), (1, ((0, -0.5),))])


@pytest.mark.parametrize("rank", RANKS)
def test_rank_in_runs(rank):
    check({0: make_adapter(rank)}, [(3, ((0, 1.5),)), (2, ())], form=Form.RUNS)


@pytest.mark.parametrize("count", [1, 2], ids=["decode", "runs"])
def test_all_ranks_in_one_batch(count):
    adapters = {slot: make_adapter(rank) for slot, rank in enumerate(RANKS)}
    check(adapters, [(count, ((slot, 1.0),)) for slot in (5, 0, 7, 2, 1, 4, 3, 6)])


@pytest.mark.parametrize("count", [1, 2], ids=["decode", "runs"])
@pytest.mark.parametrize("k", range(1, 9))
def test_k_adapters_per_row(k, count):
    sites = SITES[1:]
    adapters = {slot: make_adapter(rank, sites=sites) for slot, rank in enumerate(RANKS)}
    rows = [
        (count, tuple(((3 * row + 5 * term) % 8, 0.3 * (term - 2)) for term in range(k)))
        for row in range(2)
    ]
    check(adapters, rows, sites=sites)


@pytest.mark.parametrize("count", [1, 2], ids=["decode", "runs"])
def test_ranks_that_differ_between_modules_and_modules_that_are_missing(count):
    uneven = {path: make_adapter(rank)[path] for rank, path in enumerate(shapes(SITES), start=1)}
    adapters = {
        0: uneven,
        1: make_adapter(4, ("k",)),
        2: make_adapter(5, ("q", "v")),
        3: make_adapter(2, ("o",)),
    }
    rows = [(count, ((slot, 1.0),)) for slot in range(4)]
    check(adapters, [*rows, (count, ((1, 0.5), (3, 2.0), (0, -1.0)))])


@pytest.mark.parametrize("count", [1, 2], ids=["decode", "runs"])
def test_weights_are_any_real_and_an_adapter_may_be_named_twice(count):
    adapters = {0: make_adapter(8), 1: make_adapter(3)}
    check(
        adapters,
        [
            (count, ((0, 2.5), (1, -3.0))),
            (count, ((0, 0.0), (1, 1.0))),
            (count, ((0, 0.7), (0, 0.6))),
            (count, ((1, 1e-4), (0, 0.0), (1, 1.0))),
            (count, ((0, 0.0),)),
        ],
    )


@pytest.mark.parametrize("count", [1, 2], ids=["decode", "runs"])
@pytest.mark.parametrize("in_features", [255, 257, 1024, 2100])
def test_features_in_several_pieces(in_features, count):
    sites = (FusedSite("down", in_features, (("down", 20),)),)
    adapters = {0: make_adapter(3, sites=sites), 1: make_adapter(17, sites=sites)}
    check(adapters, [(count, ((0, 1.0), (1, 0.5))), (count, ((1, -1.0),))], sites=sites)


@pytest.mark.parametrize("width", [1, 15, 127, 128, 129, 300])
@pytest.mark.parametrize("count", [1, 2], ids=["decode", "runs"])
def test_columns_around_a_tile(width, count):
    sites = (FusedSite("pair", 20, (("a", width), ("b", 3))),)
    adapters = {0: make_adapter(3, sites=sites)}
    check(adapters, [(count, ((0, 1.0),))], sites=sites)


@pytest.mark.parametrize("tokens", [1, TILE_TOKENS - 1, TILE_TOKENS, TILE_TOKENS + 1])
def test_tokens_around_a_tile(tokens):
    adapters = {0: make_adapter(8), 1: make_adapter(3)}
    check(adapters, [(tokens, ((0, 1.0),)), (0, ((1, 1.0),)), (2, ()), (3, ((1, 0.5), (0, 1.0)))])


@pytest.mark.parametrize("count", [1, 2], ids=["decode", "runs"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision(dtype, count):
    adapters = {slot: make_adapter(rank) for slot, rank in enumerate((8, 17, 1))}
    rows = [(count, ((0, 1.0),)), (count, ((1, 0.5), (2, -0.5))), (count, ())]
    check(adapters, rows, dtype=dtype)


def test_no_work_launches_nothing(monkeypatch):
    batch = make_batch(make_bank({0: make_adapter(8)}))
    for name in ("decode_shrink", "decode_expand", "runs_shrink", "runs_expand"):
        monkeypatch.setattr(import_module("kernels.lora.lora_triton_ops"), name, None)
    for rows in ([], [(4, ()), (1, ())], [(1, ((0, 0.0),))], [(0, ((0, 1.0),))]):
        assert not batch.update(rows)
        tokens = sum(count for count, _ in rows)
        add_lora(torch.zeros(tokens, 170), torch.zeros(tokens, 37), 0, batch)


@pytest.mark.parametrize("count", [1, 2], ids=["decode", "runs"])
def test_neither_unused_columns_nor_unused_rows_are_read_or_written(count):
    """Scratch, free rows of the bank and what surrounds x and y are all NaN."""
    adapters = {0: make_adapter(3), 1: make_adapter(17)}
    bank = make_bank({**adapters, 2: make_adapter(3)})
    bank.write(2, {p: (a * math.nan, b * math.nan, s) for p, (a, b, s) in adapters[0].items()})
    batch = make_batch(bank)
    rows = [(count, ((0, 1.0),)), (count, ()), (count, ((1, 0.5), (0, -1.0), (2, 0.0)))]
    batch.update(rows)
    tokens = 3 * count
    x = torch.full((tokens, 64), math.nan)
    y = torch.full((tokens, 200), math.nan)
    x[:, 9:46] = torch.randn(tokens, 37)
    y[:, 5:175] = torch.randn(tokens, 170)
    named = {**adapters, 2: {}}
    want = add_lora_reference(y[:, 5:175], x[:, 9:46], named, SITES[0].out_slices, per_token(rows))
    assert batch.scratch.isnan().all()
    add_lora(y[:, 5:175], x[:, 9:46], 0, batch)
    assert_close("lora", y[:, 5:175].clone(), want)
    assert y[:, :5].isnan().all()
    assert y[:, 175:].isnan().all()


@pytest.mark.parametrize("count", [1, 2], ids=["decode", "runs"])
def test_a_broken_adapter_or_token_reaches_only_its_own_rows(count):
    adapters = {slot: make_adapter(8) for slot in range(3)}
    adapters[1] = {p: (a, b * math.nan, s) for p, (a, b, s) in adapters[1].items()}
    batch = make_batch(make_bank(adapters))
    batch.update([(count, ((0, 1.0),)), (count, ((1, 1.0),)), (count, ()), (count, ((2, 1.0),))])
    x, y = torch.randn(4 * count, 37), torch.randn(4 * count, 170)
    x[0] = math.nan
    add_lora(y, x, 0, batch)
    assert y[1:count].isfinite().all()
    assert y[count : 2 * count].isnan().all()
    assert y[2 * count :].isfinite().all()


@pytest.mark.parametrize("count", [1, 2], ids=["decode", "runs"])
def test_a_row_alone_has_the_same_bits_as_in_company(count):
    adapters = {slot: make_adapter(rank) for slot, rank in enumerate((8, 3, 17, 8))}
    batch = make_batch(make_bank(adapters))
    rows = [(count, ((slot, 0.7), ((slot + 1) % 4, -0.3))) for slot in range(4)]
    x = torch.randn(4 * count, 37)
    together = torch.zeros(4 * count, 170)
    batch.update(rows)
    add_lora(together, x, 0, batch)
    for index, row in enumerate(rows):
        own = slice(index * count, (index + 1) * count)
        alone = torch.zeros(count, 170)
        batch.update([row])
        add_lora(alone, x[own], 0, batch)
        assert torch.equal(together[own], alone)


@pytest.mark.parametrize("rank", [3, 40])
def test_a_sum_that_programs_share_has_the_same_bits(monkeypatch, rank):
    sites = (FusedSite("down", 2600, (("down", 20),)),)
    adapters = {0: make_adapter(rank, sites=sites), 1: make_adapter(2, sites=sites)}
    batch = make_batch(make_bank(adapters, sites))
    rows = [(66, ((0, 0.7), (1, -0.3))), (1, ()), (2, ((1, 1.5),))]
    batch.update(rows)
    x = torch.randn(69, 2600)
    y = torch.randn(69, 20)
    want = add_lora_reference(y, x, adapters, sites[0].out_slices, per_token(rows))
    found = []
    for few, splits in ((FEW_PROGRAMS, 3), (0, 1)):
        monkeypatch.setattr("kernels.lora.lora_triton_batch.FEW_PROGRAMS", few)
        assert batch.tile_splits(0) == splits
        found.append(y.clone())
        add_lora(found[-1], x, 0, batch)
    assert_close("lora", found[0].clone(), want)
    assert torch.equal(*found)


def test_rows_with_the_same_adapters_share_tiles():
    adapters = {slot: make_adapter(rank) for slot, rank in enumerate((8, 3, 17))}
    rows = [(1, ((0, 0.1 * row + 0.2), (2, -1.0))) for row in range(8)]
    rows[3:3] = [(1, ((1, 1.0),)), (40, ((2, 0.5),)), (1, ()), (1, ((2, 1.5), (0, 0.0)))]
    rows.append((9, ((0, 2.0), (1, 0.0), (2, 0.3))))
    batch = make_batch(make_bank(adapters))
    check(adapters, rows, batch, form=Form.RUNS)
    assert batch.tiles == 3  # of slots 0 and 2, of 1, and of 2


def test_tiles_of_many_rows_are_full():
    adapters = {0: make_adapter(3)}
    batch = make_batch(make_bank(adapters), rows=90)
    check(adapters, [(1, ((0, 0.01 * row),)) for row in range(1, 80)] + [(2, ((0, 1.0),))], batch)
    assert batch.tiles == -(-81 // TILE_TOKENS)


def test_sums_are_not_shared_if_the_scratch_has_no_room():
    sites = (FusedSite("down", 2600, (("down", 20),)),)
    batch = make_batch(make_bank({slot: make_adapter(1, sites=sites) for slot in range(4)}, sites))
    batch.update([(90, tuple((slot, 1.0) for slot in range(4)))])
    assert batch.tile_splits(0) == 1


def weighted_reference(y, x, adapters, site, rows, batch, weights):
    """Compute the reference with weights [pairs, slices] in place of the mixtures' own."""
    pieces = []
    column = 0
    mixtures = per_token(rows)
    for part, (path, width) in enumerate(site.out_slices):
        routed = [[] for _ in mixtures]
        for pair, (token, term) in enumerate(zip(batch.pair_tokens, batch.pair_terms, strict=True)):
            routed[token].append((mixtures[token][term][0], float(weights[pair, part])))
        columns = y[:, column : column + width]
        pieces.append(add_lora_reference(columns, x, adapters, ((path, width),), routed))
        column += width
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize("count", [1, 3], ids=["decode", "runs"])
@pytest.mark.parametrize("per_slice", [False, True], ids=["pair", "slice"])
def test_weights_from_a_router_per_pair_and_slice(count, per_slice):
    adapters = {slot: make_adapter(rank) for slot, rank in enumerate((8, 3, 17))}
    batch = make_batch(make_bank(adapters))
    rows = [(count, ((0, 1.0), (1, 0.0), (2, 1.0))), (count, ()), (count, ((1, 1.0),))]
    assert batch.update(rows)
    assert batch.pair_terms.tolist() == [0, 2] * count + [0] * count
    weights = torch.randn(3 if per_slice else 1, 3 * count).t()  # strided
    weights[1] = 0.0
    weights[0, 0] = 0.0
    weights[-1, -1] = 0.0
    x, y = torch.randn(3 * count, 37), torch.randn(3 * count, 170)
    wide = weights.expand(-1, 3)
    want = weighted_reference(y, x, adapters, SITES[0], rows, batch, wide)
    add_lora(y, x, 0, batch, weights if per_slice else weights[:, 0])
    assert_close("lora", y, want)


def test_pairs_are_those_of_the_other_batches():
    bank = make_bank({slot: make_adapter(2) for slot in range(3)})
    rows = [(2, ((0, 1.0), (2, 0.5))), (1, ()), (1, ((1, 0.0), (2, -1.0)))]
    batch = make_batch(bank)
    batch.update(rows)
    other = LoraBatch.build(rows, bank)

    def pairs(batch):
        columns = (batch.pair_tokens, batch.pair_terms, batch.weights)
        return sorted(zip(*(column.tolist() for column in columns), strict=True))

    assert pairs(batch) == pairs(other)


def test_a_token_that_a_router_masks_never_meets_the_adapter():
    broken = {p: (a, b * math.nan, s) for p, (a, b, s) in make_adapter(8).items()}
    batch = make_batch(make_bank({0: broken, 1: make_adapter(4)}))
    batch.update([(3, ((0, 1.0), (1, 1.0)))])
    weights = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    y = torch.randn(3, 170)
    before = y.clone()
    add_lora(y, torch.randn(3, 37), 0, batch, weights)
    assert y[0].isnan().all()
    assert y[1].isfinite().all()
    assert torch.equal(y[2], before[2])


def test_recorded_launches_follow_the_buffers(record_launches):
    """One recording over 5 padded rows, of what a CUDA graph would keep, serves other batches,
    slots, ranks and grown lanes."""
    adapters = {slot: make_adapter(rank) for slot, rank in enumerate((8, 3, 17))}
    bank = make_bank(adapters)
    batch = make_batch(bank, pairs=3)
    batch.update([], pad_to=5)
    x = torch.zeros(5, 37)
    y = torch.zeros(5, 170)
    launches = record_launches("kernels.lora.lora_triton_ops")
    add_lora(y, x, 0, batch)
    assert [launch.name for launch in launches] == ["decode_shrink", "decode_expand"]
    steps = [
        [(1, ((0, 1.0),)), (1, ()), (1, ((2, 0.5), (1, -1.0), (0, 0.25)))],
        [(1, ((1, 2.0),))],
        [(1, ())],
        [(1, ((slot, 1.0),)) for slot in (2, 7, 0, 9, 8)],
        [(1, ((0, 1.0), (9, 0.0)))] * 4,
    ]
    for number, rows in enumerate(steps):
        if number == 3:
            adapters[0] = make_adapter(64)
            adapters |= {slot: make_adapter(8) for slot in range(7, 14)}
            for slot in (0, *range(7, 14)):  # grows the lane of rank 8, moves slot 0 to another
                bank.write(slot, adapters[slot])
        assert batch.update(rows, pad_to=5) == any(w for _, m in rows for _, w in m)
        x.copy_(torch.randn(5, 37))
        y.copy_(torch.randn(5, 170))
        mixtures = per_token(rows) + [()] * (5 - len(rows))
        want = add_lora_reference(y, x, adapters, SITES[0].out_slices, mixtures)
        before = y.clone()
        for launch in launches:
            launch.replay()
        assert_close("lora", y, want)
        idle = [t for t, mixture in enumerate(mixtures) if not mixture]
        assert torch.equal(y[idle], before[idle])


@pytest.mark.parametrize("count", [1, 2], ids=["decode", "runs"])
def test_a_term_of_weight_zero_may_name_a_slot_that_is_empty(count):
    adapters = {1: make_adapter(3), 5: {}}
    batch = make_batch(make_bank({1: adapters[1]}))
    check(adapters, [(count, ((5, 0.0), (1, 1.0))), (count, ((5, 0.0),))], batch)


def test_a_batch_keeps_what_it_reads_when_its_lane_grows():
    adapters = {0: make_adapter(8)}
    bank = make_bank(adapters)
    batch = make_batch(bank)
    batch.update([(1, ((0, 1.0),))])
    for slot in range(1, 12):
        bank.write(slot, make_adapter(8))
    x, y = torch.randn(1, 37), torch.randn(1, 170)
    want = add_lora_reference(y, x, adapters, SITES[0].out_slices, [((0, 1.0),)])
    add_lora(y, x, 0, batch)
    assert_close("lora", y, want)


HELD = {0: 1, 1: 2, 2: 3, 3: 16, 4: 17}


@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.lists(
                st.tuples(
                    st.sampled_from([*HELD, 5]),
                    st.sampled_from([0.0, 1.0, -1.5, 0.3, 2.0]),
                ),
                max_size=3,
            ),
        ),
        max_size=4,
    ),
    decode=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_batch(rows, decode, seed):
    torch.manual_seed(seed)
    sites = (FusedSite("kv", 19, (("k", 5), ("v", 17))),)
    adapters = {slot: make_adapter(rank, sites=sites) for slot, rank in HELD.items()}
    adapters[5] = make_adapter(4, ("v",), sites)
    if decode:
        rows = [(1, mixture) for _, mixture in rows]
    check(adapters, rows, sites=sites)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([(1, ())] * 17, {}, "17 rows, room for 16"),
        ([(97, ())], {}, "97 tokens, room for 96"),
        ([(1, ((0, 1.0),) * 9)], {}, "9 adapters in a row, room for 8"),
        ([(1, ((0, math.nan),))], {}, "not finite"),
        ([(1, ((3, 1.0),))], {}, "slot 3 holds no adapter"),
        ([(2, ((0, 1.0),))], {"pad_to": 4}, "do not fit 4 decode rows"),
        ([(1, ((0, 1.0),))] * 5, {"pad_to": 4}, "do not fit 4 decode rows"),
        ([], {"pad_to": 17}, "do not fit 17 decode rows"),
    ],
)
def test_batches_that_do_not_fit_are_refused(rows, options, message):
    batch = make_batch(make_bank({0: make_adapter(2)}))
    with pytest.raises(ValueError, match=message):
        batch.update(rows, **options)


@pytest.mark.parametrize(
    ("y", "x", "weights", "message"),
    [
        (torch.zeros(3, 170), torch.zeros(3, 37), None, "do not fit"),
        (torch.zeros(2, 170), torch.zeros(2, 36), None, "do not fit"),
        (torch.zeros(2, 170), torch.zeros(2, 37).half(), None, "the bank has"),
        (torch.zeros(170, 2).t(), torch.zeros(2, 37), None, "side by side"),
        (torch.zeros(2, 170), torch.zeros(2, 37), torch.zeros(1), "weights"),
        (torch.zeros(2, 170), torch.zeros(2, 37), torch.zeros(2, 1, 2), "weights"),
    ],
    ids=["tokens", "inputs", "dtype", "strides", "weight pairs", "weight slices"],
)
def test_tensors_that_do_not_fit_are_refused(y, x, weights, message):
    batch = make_batch(make_bank({0: make_adapter(2)}))
    batch.update([(2, ((0, 1.0),))])
    with pytest.raises(ValueError, match=message):
        add_lora(y, x, 0, batch, weights)
