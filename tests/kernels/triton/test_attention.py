"""The Triton paged attention kernels against the reference, in Triton's interpreter."""

import math
from importlib import import_module

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.attention.attention_reference import paged_attention_reference
from kernels.attention.attention_triton_batch import TILE_QUERIES, TritonPagedBatch
from kernels.attention.attention_triton_dispatch import attention_operators
from kernels.attention.cache import LayerKVCache
from kernels.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("interpreted_kernels")


class Step:
    """One step over a cache whose blocks are dealt out of order; what no row owns is NaN."""

    def __init__(self, rows, heads=4, kv_heads=2, dim=8, block=4, dtype=torch.float32, room=128):
        self.contexts = [context for context, _ in rows]
        self.counts = [count for _, count in rows]
        needed = [-(-(context + count) // block) for context, count in rows]
        blocks = torch.randperm(sum(needed) + 3).tolist()
        self.tables = [[blocks.pop() for _ in range(n)] for n in needed]
        self.cache = LayerKVCache.allocate(sum(needed) + 3, block, kv_heads, dim, dtype=dtype)
        self.cache.kv.fill_(math.nan)
        for table, context in zip(self.tables, self.contexts, strict=True):
            for position in range(context):
                place = table[position // block], position % block
                self.cache.kv[place] = torch.randn(2 * kv_heads, dim)
        tokens = sum(self.counts)
        fused = torch.randn(tokens, heads + 2 * kv_heads, dim).to(dtype)  # as a product leaves it
        self.q, self.kv = fused[:, :heads], fused[:, heads:]
        self.batch = TritonPagedBatch(
            max_tokens=256, max_rows=8, max_len=room, block_size=block, device="cpu"
        )

    def run(self, window=None):
        store_fused_kv, paged_attention = attention_operators()
        self.batch.update(self.tables, self.contexts, self.counts)
        store_fused_kv(self.kv, self.cache, self.batch)
        return paged_attention(self.q, self.cache, self.batch, 0.3, window)

    def reference(self, window=None):
        return paged_attention_reference(
            self.q,
            self.cache.k,
            self.cache.v,
            self.tables,
            self.contexts,
            self.counts,
            0.3,
            window,
        )

    def check(self, window=None):
        got = self.run(window)
        assert got.shape == self.q.shape
        assert_close("attention", got, self.reference(window))


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (9, 3), (8, 1), (20, 1)])
def test_grouped_query_heads(heads, kv_heads):
    Step([(5, 1), (0, 6), (9, 1), (3, 4)], heads, kv_heads).check()


@pytest.mark.parametrize("dim", [8, 16, 20, 64, 80])
def test_head_sizes(dim):
    Step([(5, 1), (7, 3)], heads=2, kv_heads=1, dim=dim).check()


@pytest.mark.parametrize("block", [1, 3, 16])
def test_block_sizes(block):
    Step([(5, 1), (17, 1), (7, 12), (0, 2)], block=block).check()


@pytest.mark.parametrize("context", [0, 3, 4, 63, 64, 65])
@pytest.mark.parametrize("count", [1, 5, TILE_QUERIES, TILE_QUERIES + 1])
def test_lengths_around_tiles_and_blocks(context, count):
    Step([(context, count)], heads=2, kv_heads=1, dim=8, room=256).check()


@pytest.mark.parametrize("window", [1, 3, 4, 9, 70, 100])
def test_sliding_window(window):
    Step([(0, 1), (75, 1), (3, 1), (60, 12), (0, 10)], heads=2, kv_heads=1).check(window)


@pytest.mark.parametrize("window", [None, 300, 700])
def test_long_contexts_are_divided_and_merged(window):
    step = Step([(700, 1), (0, 1), (255, 1), (256, 1), (40, 3)], 3, 1, block=16, room=1024)
    assert step.batch.splits(2**30) == 4
    step.check(window)


def test_splits_follow_capacities_alone():
    def splits(room, window=2**30):
        return TritonPagedBatch(
            max_tokens=1, max_rows=1, max_len=room, block_size=16, device="cpu"
        ).splits(window)

    assert [splits(n) for n in (1, 256, 257, 513, 1025, 4096, 2**17)] == [1, 1, 2, 4, 8, 16, 16]
    assert splits(2**17, window=512) == 2


@pytest.mark.parametrize("room", [128, 1024], ids=["whole", "divided"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision(dtype, room):
    Step([(7, 1), (3, 5), (100, 1)], dtype=dtype, room=room).check()


def test_a_chunked_prefill_equals_a_whole_one():
    whole = Step([(0, 90)], heads=2, kv_heads=1)
    want = whole.run()
    chunked = Step([(0, 90)], heads=2, kv_heads=1)
    store_fused_kv, paged_attention = attention_operators()
    pieces = []
    for start, stop in ((0, 3), (3, 4), (4, 70), (70, 90)):
        chunked.batch.update(chunked.tables, [start], [stop - start])
        store_fused_kv(whole.kv[start:stop], chunked.cache, chunked.batch)
        pieces.append(paged_attention(whole.q[start:stop], chunked.cache, chunked.batch, 0.3, None))
    assert_close("attention", torch.cat(pieces), want)


def test_a_row_alone_has_the_same_bits_as_in_company():
    step = Step([(5, 1), (60, 1), (300, 1), (9, 3)], room=512)
    together = step.run()
    _, paged_attention = attention_operators()
    start = 0
    for table, context, count in zip(step.tables, step.contexts, step.counts, strict=True):
        step.batch.update([table], [context], [count])
        alone = paged_attention(step.q[start : start + count], step.cache, step.batch, 0.3, None)
        assert torch.equal(together[start : start + count], alone)
        start += count


def test_a_broken_neighbour_stays_alone():
    step = Step([(5, 1), (60, 1), (2, 1), (9, 3)])
    step.run()
    step.cache.kv[step.tables[1]] = math.nan
    _, paged_attention = attention_operators()
    got = paged_attention(step.q, step.cache, step.batch, 0.3, None)
    assert got[[0, 2, 3, 4, 5]].isfinite().all()
    assert got[1].isnan().all()


def test_storing_touches_its_own_slots_only():
    step = Step([(5, 1), (0, 8)])
    before = step.cache.kv.clone()
    step.run()
    places = [(step.tables[0][1], 1)] + [(b, o) for b in step.tables[1] for o in range(4)]
    for place, stored in zip(places, step.kv, strict=True):
        assert torch.equal(step.cache.kv[place], stored)
        step.cache.kv[place] = before[place]
    assert torch.equal(step.cache.kv.nan_to_num(9.0), before.nan_to_num(9.0))


def test_padding_stores_and_computes_nothing():
    """Buffers stay where they are, and a second, smaller step reads none of the first."""
    store_fused_kv, paged_attention = attention_operators()
    step = Step([(5, 1), (11, 1), (2, 1)])
    addresses = [t.data_ptr() for t in (step.batch.rows, step.batch.block_tables)]
    step.batch.update(step.tables, step.contexts, step.counts, pad_to=4)
    padded = torch.full((4, 8, 8), math.nan)
    padded[:3, :4], padded[:3, 4:] = step.q, step.kv
    store_fused_kv(padded[:, 4:], step.cache, step.batch)
    got = paged_attention(padded[:, :4], step.cache, step.batch, 0.3, None)
    assert_close("attention", got[:3].clone(), step.reference())
    stored = step.cache.kv.clone()
    step.batch.update(step.tables[1:2], [11], [1], pad_to=4)
    padded[0, :4], padded[0, 4:] = step.q[1], step.kv[1]
    store_fused_kv(padded[:, 4:], step.cache, step.batch)
    again = paged_attention(padded[:, :4], step.cache, step.batch, 0.3, None)
    assert torch.equal(again[0], got[1])
    assert torch.equal(step.cache.kv.nan_to_num(9.0), stored.nan_to_num(9.0))
    assert addresses == [t.data_ptr() for t in (step.batch.rows, step.batch.block_tables)]


def test_unchanged_block_tables_are_not_sent_again(monkeypatch):
    step = Step([(5, 1), (9, 1)])
    step.run()
    sent = []
    copy = torch.Tensor.copy_

    def spy(self, source, **options):
        if self.data_ptr() == step.batch.block_tables.data_ptr():
            sent.append(tuple(source.shape))
        return copy(self, source, **options)

    monkeypatch.setattr(torch.Tensor, "copy_", spy)
    step.batch.update(step.tables, [6, 10], [1, 1])
    assert sent == []
    step.batch.update([[*step.tables[0], 1], step.tables[1]], [8, 11], [1, 1])
    assert sent == [(2, 32)]


@given(
    rows=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 7)), min_size=1, max_size=4),
    window=st.sampled_from([None, 1, 5, 33]),
    block=st.sampled_from([1, 4, 7]),
    seed=st.integers(0, 2**16),
)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_step(rows, window, block, seed):
    torch.manual_seed(seed)
    Step(rows, heads=2, kv_heads=1, block=block).check(window)


@pytest.mark.parametrize(
    ("tables", "contexts", "counts", "options", "message"),
    [
        ([[0], [1]], [0, 2], [1, 0], {}, "row 1 has no new tokens"),
        ([[0]], [4], [1], {}, "1 blocks of 4 hold fewer than 5"),
        ([[0]] * 9, [0] * 9, [1] * 9, {}, "9 rows, room for 8"),
        ([[0] * 40], [125], [4], {}, "129 positions, room for 128"),
        ([[0, 1]], [0], [5], {"pad_to": 8}, "do not fit 8 decode rows"),
        ([[0]] * 3, [0] * 3, [1] * 3, {"pad_to": 2}, "do not fit 2 decode rows"),
    ],
)
def test_steps_that_do_not_fit_are_refused(tables, contexts, counts, options, message):
    batch = TritonPagedBatch(max_tokens=256, max_rows=8, max_len=128, block_size=4, device="cpu")
    with pytest.raises(ValueError, match=message):
        batch.update(tables, contexts, counts, **options)


def test_tensors_that_do_not_fit_are_refused():
    store_fused_kv, paged_attention = attention_operators()
    step = Step([(5, 1), (0, 2)])
    step.run()
    with pytest.raises(ValueError, match="the step has 3 tokens"):
        store_fused_kv(step.kv[:2], step.cache, step.batch)
    with pytest.raises(ValueError, match="the step has 3 tokens"):
        paged_attention(step.q[:2], step.cache, step.batch, 0.3, None)


def test_nothing_imports_triton_on_a_cpu_path():
    for name in (
        "kernels.attention.attention_triton_dispatch",
        "kernels.lora.lora_triton_dispatch",
    ):
        assert not hasattr(import_module(name), "triton")
