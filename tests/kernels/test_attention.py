"""Paged attention against its reference."""

import pytest
import torch

from kernels.attention.attention_batch import PagedBatch
from kernels.attention.attention_reference import paged_attention_reference
from kernels.attention.cache import LayerKVCache
from kernels.attention.paged import paged_attention, store_kv
from kernels.tolerances import assert_close

BLOCK = 4
DIM = 8


@pytest.fixture(params=["native", "torch"], autouse=True)
def path(request, monkeypatch):
    """Both ways of computing decode rows; a machine without the first has the second."""
    if request.param == "torch":
        monkeypatch.setattr(
            "kernels.attention.attention_batch.native_attention_available", lambda *_: False
        )
    return request.param


class Step:
    """One step over a cache whose blocks are dealt out of order."""

    def __init__(self, rows, heads=4, kv_heads=2, dtype=torch.float32):
        self.contexts = [context for context, _ in rows]
        self.counts = [count for _, count in rows]
        needed = [-(-(context + count) // BLOCK) for context, count in rows]
        blocks = torch.randperm(sum(needed) + 3).tolist()
        self.tables = [[blocks.pop() for _ in range(n)] for n in needed]
        self.unused = blocks
        tokens = sum(self.counts)
        self.q = torch.randn(tokens, heads, DIM).to(dtype)
        self.k = torch.randn(tokens, kv_heads, DIM).to(dtype)
        self.v = torch.randn(tokens, kv_heads, DIM).to(dtype)
        self.cache = LayerKVCache.allocate(
            sum(needed) + 3, BLOCK, kv_heads, DIM, dtype=dtype, device="cpu"
        )
        for table, context in zip(self.tables, self.contexts, strict=True):
            for position in range(context):
                block, offset = table[position // BLOCK], position % BLOCK
                self.cache.k[block, offset] = torch.randn(kv_heads, DIM)
                self.cache.v[block, offset] = torch.randn(kv_heads, DIM)

    def run(self, window=None):
        batch = PagedBatch.build(
            self.tables, self.contexts, self.counts, block_size=BLOCK, dtype=self.q.dtype
        )
        store_kv(self.k, self.v, self.cache, batch)
        return paged_attention(self.q, self.cache, batch, 0.3, window)

    def check(self, window=None):
        got = self.run(window)
        assert got.shape == self.q.shape
        want = paged_attention_reference(
            self.q,
            self.cache.k,
            self.cache.v,
            self.tables,
            self.contexts,
            self.counts,
            0.3,
            window,
        )
        assert_close("attention", got, want)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (4, 2), (9, 3), (8, 1)])
def test_grouped_query_heads(heads, kv_heads):
    Step([(5, 1), (0, 6), (9, 1), (3, 4)], heads, kv_heads).check()


@pytest.mark.parametrize("context", [0, 1, 3, 4, 5, 7, 8, 9, 31])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 9])
def test_lengths_around_block_boundaries(context, count):
    Step([(context, count)]).check()


def test_decode_rows_of_many_lengths():
    Step([(n, 1) for n in (0, 1, 3, 4, 5, 17, 40, 2, 8)]).check()


def test_one_long_row_among_short_ones():
    Step([(3, 1)] * 30 + [(500, 1)] + [(6, 1)] * 5, heads=1, kv_heads=1).check()


def test_prefill_from_nothing():
    Step([(0, 13), (0, 4), (0, 2)]).check()


def test_chunks_with_context_beside_decode_rows():
    Step([(7, 1), (8, 5), (0, 3), (13, 1), (6, 9), (2, 1)]).check()


@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 9, 100])
def test_sliding_window(window):
    Step([(0, 1), (11, 1), (3, 1), (9, 6), (0, 10), (4, 2)]).check(window)


def test_one_batch_serves_layers_with_different_windows():
    step = Step([(11, 1), (0, 10)])
    for window in (None, 3, None, 5):
        step.check(window)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision(dtype):
    Step([(7, 1), (3, 5), (12, 1)], dtype=dtype).check()


def test_a_chunked_prefill_equals_a_whole_one():
    whole = Step([(0, 11)])
    want = whole.run()
    cache = LayerKVCache.allocate(8, BLOCK, 2, DIM)
    pieces = []
    for start, stop in ((0, 3), (3, 4), (4, 9), (9, 11)):
        batch = PagedBatch.build([[5, 2, 7]], [start], [stop - start], block_size=BLOCK)
        store_kv(whole.k[start:stop], whole.v[start:stop], cache, batch)
        pieces.append(paged_attention(whole.q[start:stop], cache, batch, 0.3))
    assert_close("attention", torch.cat(pieces), want)


def test_neighbours_do_not_change_a_row():
    step = Step([(5, 1), (60, 1), (2, 1), (9, 3)])
    together = step.run()
    start = 0
    for table, context, count in zip(step.tables, step.contexts, step.counts, strict=True):
        batch = PagedBatch.build([table], [context], [count], block_size=BLOCK)
        alone = paged_attention(step.q[start : start + count], step.cache, batch, 0.3)
        assert_close("attention", together[start : start + count], alone)
        start += count


def test_a_broken_neighbour_stays_alone():
    step = Step([(5, 1), (60, 1), (2, 1), (9, 3)])
    step.cache.k[step.tables[1]] = float("nan")
    step.cache.v[step.tables[1]] = float("inf")
    got = step.run()
    assert got[[0, 2, 3, 4, 5]].isfinite().all()
    assert not got[1].isfinite().any()


def test_padding_repeats_a_rows_own_blocks(path):
    cache = LayerKVCache.allocate(4, BLOCK, 2, DIM)
    cache.k[0] = cache.v[0] = float("nan")
    batch = PagedBatch.build([[1], [0, 2, 3]], [1, 9], [1, 1], block_size=BLOCK)
    assert len(batch.plan().decode) == (0 if path == "native" else 1)
    got = paged_attention(torch.randn(2, 4, DIM), cache, batch, 0.3)
    assert got[0].isfinite().all()
    assert not got[1].isfinite().any()


def test_what_an_earlier_owner_left_in_a_block_is_never_read():
    step = Step([(4, 1), (60, 1), (0, 6), (8, 5), (0, 1)])
    fresh = [step.tables[0][1], *step.tables[2], *step.tables[3][2:], *step.tables[4]]
    for block in (*fresh, *step.unused):
        step.cache.k[block] = float("nan")
        step.cache.v[block] = float("inf")
    step.check()


def test_storing_touches_its_own_slots_only():
    step = Step([(5, 1), (0, 8)])
    before = step.cache.k.clone()
    step.run()
    written = {(step.tables[0][1], 1)} | {(block, o) for block in step.tables[1] for o in range(4)}
    for block in range(before.shape[0]):
        for offset in range(BLOCK):
            same = torch.equal(step.cache.k[block, offset], before[block, offset])
            assert same == ((block, offset) not in written)


def test_a_row_without_new_tokens_is_refused():
    with pytest.raises(ValueError, match="row 1 has no new tokens"):
        PagedBatch.build([[0], [1]], [0, 2], [1, 0], block_size=BLOCK)


def test_a_short_block_table_is_refused():
    with pytest.raises(ValueError, match="1 blocks of 4 hold fewer than 5"):
        PagedBatch.build([[0]], [4], [1], block_size=BLOCK)


def test_a_decode_row_is_the_same_in_any_batch(path):
    step = Step([(5, 1), (0, 1), (40, 1), (3, 1), (17, 1)], heads=6, kv_heads=3)
    together = step.run()
    for row in range(5):
        alone = PagedBatch.build(
            step.tables[row : row + 1], step.contexts[row : row + 1], [1], block_size=BLOCK
        )
        got = paged_attention(step.q[row : row + 1], step.cache, alone, 0.3)
        if path == "native":
            assert torch.equal(got[0], together[row])
        else:  # padded to another length, the sums run in another order
            assert_close("attention", got[0], together[row])


def test_queries_may_lie_between_keys_and_values():
    step = Step([(5, 1), (9, 1)], heads=4, kv_heads=2)
    want = step.run()
    packed = torch.cat((step.q, torch.randn(2, 4, DIM)), dim=1)
    batch = PagedBatch.build(step.tables, step.contexts, step.counts, block_size=BLOCK)
    got = paged_attention(packed.narrow(1, 0, 4), step.cache, batch, 0.3)
    assert_close("attention", got, want)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_long_contexts_on_several_threads(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        Step([(700, 1), (3, 1), (1500, 1)], heads=6, kv_heads=2).check()
        Step([(1500, 1)], heads=4, kv_heads=4).check(window=1200)
    finally:
        torch.set_num_threads(before)


def test_large_scores_do_not_overflow():
    step = Step([(20, 1), (33, 1)])
    step.q *= 60  # e^100 is beyond fp32
    step.check()
