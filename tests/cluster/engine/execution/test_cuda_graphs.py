"""Buckets, padding and what is refilled between replays. Capturing itself needs a GPU.

The captures here run their computation again, on the same buffers.
"""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.engine.execution.cuda_graphs import (
    CapturedStep,
    CudaCapture,
    DecodeGraphs,
    DecodeRow,
    bucket_for,
    decode_buckets,
    padded_inputs,
)
from kernels.attention.attention_triton_batch import TritonPagedBatch
from kernels.lora.bank import AdapterBank
from kernels.lora.lora_triton_batch import TritonLoraBatch
from kernels.lora.sites import FusedSite


@given(st.integers(1, 600))
def test_buckets_ascend_to_the_largest_step(max_rows):
    buckets = decode_buckets(max_rows)
    assert buckets[-1] == max_rows
    assert all(low < high for low, high in pairwise(buckets))


@given(st.integers(1, 600), st.data())
def test_a_step_is_padded_little(max_rows, data):
    rows = data.draw(st.integers(1, max_rows))
    bucket = bucket_for(rows, decode_buckets(max_rows))
    assert rows <= bucket <= max_rows
    assert bucket - rows < 8 or 4 * bucket <= 5 * rows


def test_no_bucket_for_more_rows_than_the_largest():
    assert bucket_for(9, decode_buckets(8)) is None


def test_no_buckets_for_no_rows():
    with pytest.raises(ValueError, match="at most 0 rows"):
        decode_buckets(0)


def row(sequence, position=3, mixture=(), blocks=(0,)):
    return DecodeRow(sequence, 10 + sequence, position, blocks, mixture)


def test_inputs_are_padded():
    assert padded_inputs([row(1), row(2, position=5)], 4) == [[11, 12, 0, 0], [3, 5, 0, 0]]


class GraphRig:
    """Decode graphs over a computation that shows what it is given: per row its token, position,
    cache length, first block, first slot and first weight; 0 without adapters."""

    def __init__(self, buckets=(1, 2, 4)):
        site = FusedSite("o", 4, (("o", 4),))
        self.bank = AdapterBank((site,), 4, 8)
        for slot in range(4):
            self.bank.write(slot, {"o": (torch.zeros(2, 4), torch.zeros(4, 2), 1.0)})
        self.paged = TritonPagedBatch(
            max_tokens=4, max_rows=4, max_len=32, block_size=4, device="cpu"
        )
        self.lora = TritonLoraBatch(self.bank, max_tokens=4, max_rows=4, max_pairs=2)
        self.captured = []
        self.replayed = []
        self.graphs = DecodeGraphs(
            self.forward, self.paged, self.lora, buckets, "cpu", self.capture
        )

    def forward(self, inputs, adapters):
        count = inputs.shape[1]
        columns = [*inputs, self.paged.rows[:count, 1], self.paged.block_tables[:count, 0]]
        if adapters:
            used = self.lora.counts[:count] > 0
            columns += [
                self.lora.slots[:count, 0] * used,
                self.lora.pair_weights[self.lora.pair_starts[:count].long()] * used,
            ]
        else:
            columns += [torch.zeros(count)] * 2
        return torch.stack([column.float() for column in columns], dim=1)

    def capture(self, compute):
        logits = compute()
        key = len(self.captured)
        self.captured.append((logits.shape[0], compute.__defaults__[1]))

        def replay():
            self.replayed.append(self.captured[key])
            logits.copy_(compute())

        return CapturedStep(replay, logits)


def test_both_variants_of_every_bucket_are_captured_largest_first():
    engine = GraphRig()
    assert engine.captured == [
        (4, False), (4, True), (2, False), (2, True), (1, False), (1, True),
    ]  # fmt: skip


def test_all_steps_leave_their_logits_in_one_place():
    engine = GraphRig()
    places = {engine.graphs.run([row(s) for s in range(count)]).data_ptr() for count in (1, 2, 4)}
    assert len(places) == 1


def test_a_step_without_adapters_replays_the_base():
    engine = GraphRig()
    got = engine.graphs.run([row(1), row(2, 7, blocks=(5, 6)), row(3)])
    assert engine.replayed == [(4, False)]
    assert got.tolist() == [
        [11, 3, 4, 0, 0, 0],
        [12, 7, 8, 5, 0, 0],
        [13, 3, 4, 0, 0, 0],
    ]


def test_a_step_with_adapters_replays_them_and_padding_has_none():
    engine = GraphRig()
    engine.graphs.run([row(s, mixture=((3, 2.0),)) for s in range(4)])
    got = engine.graphs.run([row(7), row(8, mixture=((2, 0.5), (1, 1.0))), row(9)])
    assert engine.replayed == [(4, True), (4, True)]
    assert got[:, 4:].tolist() == [[0, 0], [2, 0.5], [0, 0]]
    assert engine.lora.counts.tolist() == [0, 2, 0, 0]
    assert engine.paged.rows[3].tolist() == [0, 0, 0]


def test_more_rows_than_the_largest_bucket_are_left_to_the_caller():
    engine = GraphRig(buckets=(1, 2))
    assert engine.graphs.run([row(s) for s in range(3)]) is None
    assert engine.replayed == []


def test_adapters_are_filled_again_only_for_other_rows(monkeypatch):
    engine = GraphRig()
    filled = []
    update = engine.lora.update

    def spy(rows, **options):
        filled.append(len(rows))
        return update(rows, **options)

    monkeypatch.setattr(engine.lora, "update", spy)
    for position in (1, 2, 3):
        got = engine.graphs.run([row(1, position, ((1, 1.0),))])
        assert got.tolist() == [[11, position, position + 1, 0, 1, 1]]
    engine.graphs.run([row(2, mixture=((2, 1.0),))])
    engine.graphs.run([row(2, mixture=((2, 0.5),))])
    engine.graphs.run([row(2), row(3)])
    engine.graphs.run([row(2), row(3)])
    engine.graphs.forget_rows()
    engine.graphs.run([row(2), row(3)])
    assert filled == [1, 1, 1, 2, 2]
    assert engine.replayed[-1] == (2, False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_computation_follows_its_buffers():
    x = torch.ones(4, device="cuda")
    step = CudaCapture()(lambda: 2 * x)
    x.fill_(3.0)
    step.replay()
    assert step.logits.tolist() == [6.0] * 4
