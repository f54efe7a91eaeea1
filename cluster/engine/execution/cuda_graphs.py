"""Decode steps as CUDA graphs: one launch in place of some hundreds.

A graph is captured per number of rows (a bucket) and variant, the base alone or with adapters. It
computes on buffers whose addresses never change: token ids and positions here, the paged cache's
tables in a ``TritonPagedBatch``, adapters in a ``TritonLoraBatch``. A step fills them, pads its
rows to the next bucket and replays. Prefill and mixed steps are not captured.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

Mixture = Sequence[tuple[int, float]]
"""(slot, weight) terms of one row."""

Forward = Callable[[torch.Tensor, bool], torch.Tensor]
"""Logits [B, vocabulary] for inputs [2, B] (token ids, positions); whether with adapters. It reads
the step's tables from the two batches, and synchronises with nothing."""


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """One sequence of a decode step."""

    sequence: int  # its arrival number: no other sequence ever has it
    token: int
    position: int  # of the token; as many are in the cache
    block_table: Sequence[int]
    mixture: Mixture


@dataclass(frozen=True, slots=True)
class CapturedStep:
    """A step that can be run again on what its buffers hold."""

    replay: Callable[[], None]
    logits: torch.Tensor  # [bucket, vocabulary], overwritten by the next replay of any step


Capture = Callable[[Callable[[], torch.Tensor]], CapturedStep]
"""Makes a captured step of a computation."""


class PagedTables(Protocol):
    """The part of ``TritonPagedBatch`` that is needed here."""

    def update(
        self,
        block_tables: Sequence[Sequence[int]],
        context_lens: Sequence[int],
        query_lens: Sequence[int],
        *,
        pad_to: int | None = None,
    ) -> None: ...


class LoraTables(Protocol):
    """The part of ``TritonLoraBatch`` that is needed here."""

    def update(self, rows: Sequence[tuple[int, Mixture]], *, pad_to: int | None = None) -> bool: ...


class HeadAdapters(Protocol):
    """The part of `CapturedHead` that is needed here."""

    def is_touched(self, mixtures: Iterable[Mixture]) -> bool: ...

    def add(self, logits: torch.Tensor) -> None: ...


def decode_buckets(max_rows: int) -> tuple[int, ...]:
    """Return the numbers of rows to capture, ascending: powers of two up to 8, then every 8, every
    32 from 128 on. A step is padded by fewer than 8 rows, or by at most a quarter.

    Raises:
        ValueError: ``max_rows`` below 1.
    """
    if max_rows < 1:
        raise ValueError(f"decode steps of at most {max_rows} rows")
    sizes = [1, 2, 4, *range(8, 128, 8), *range(128, max_rows + 1, 32)]
    return (*(size for size in sizes if size < max_rows), max_rows)


def bucket_for(rows: int, buckets: Sequence[int]) -> int | None:
    """Return the smallest bucket that holds ``rows``; None if none does."""
    index = bisect_left(buckets, rows)
    return buckets[index] if index < len(buckets) else None


def padded_inputs(rows: Sequence[DecodeRow], bucket: int) -> list[list[int]]:
    """Return the token ids and positions [2, bucket]; padding repeats token 0 at position 0."""
    padding = [0] * (bucket - len(rows))
    return [[row.token for row in rows] + padding, [row.position for row in rows] + padding]


class DecodeGraphs:
    """Captured decode steps of one model, and their input buffers."""

    def __init__(
        self,
        forward: Forward,
        paged: PagedTables,
        lora: LoraTables,
        buckets: Sequence[int],
        device: torch.device | str,
        capture: Capture,
        head: HeadAdapters | None = None,
    ) -> None:
        """Capture both variants of every bucket, the largest first: the others reuse its memory.

        Args:
            forward: the model, from inputs to logits.
            paged: the tables that ``forward`` reads for attention.
            lora: the batch that ``forward`` reads when it is asked for adapters.
            buckets: of ``decode_buckets``.
            device: of the model.
            capture: `CudaCapture` on a GPU.
            head: adds LoRA on the output head after a replay; None: no adapter has it.
        """
        self._paged, self._lora, self._head = paged, lora, head
        self._buckets = tuple(buckets)
        self._inputs = torch.zeros((2, max(buckets)), dtype=torch.int64, device=device)
        self._logits: torch.Tensor | None = None  # of all steps, for the largest bucket
        self._steps: dict[tuple[int, bool], CapturedStep] = {}
        self._filled: tuple[int, list[tuple[int, Mixture]]] | None = None  # what ``lora`` holds
        self._working = False  # whether they have adapters
        self._touches_head = False  # whether any of these has LoRA on the output head
        for bucket in sorted(self._buckets, reverse=True):
            inputs = self._inputs[:, :bucket]
            paged.update([], [], [], pad_to=bucket)
            lora.update([], pad_to=bucket)
            for adapters in (False, True):

                def compute(
                    inputs: torch.Tensor = inputs, adapters: bool = adapters
                ) -> torch.Tensor:
                    return self._keep(forward(inputs, adapters))

                self._steps[bucket, adapters] = capture(compute)

    def run(self, rows: Sequence[DecodeRow]) -> torch.Tensor | None:
        """Return the logits [rows, vocabulary], a view that the next step overwrites.

        Returns:
            None if there are more rows than the largest bucket: the caller runs them uncaptured.
        """
        bucket = bucket_for(len(rows), self._buckets)
        if bucket is None:
            return None
        inputs = torch.tensor(padded_inputs(rows, bucket))
        self._inputs[:, :bucket].copy_(inputs, non_blocking=True)
        self._paged.update(
            [row.block_table for row in rows],
            [row.position for row in rows],
            [1] * len(rows),
            pad_to=bucket,
        )
        # A live sequence's slots hold the same adapters as long as it has the same mixture.
        filled = (bucket, [(row.sequence, row.mixture) for row in rows])
        if filled != self._filled:
            self._filled = None
            self._working = self._lora.update([(1, row.mixture) for row in rows], pad_to=bucket)
            head = self._head
            self._touches_head = head is not None and head.is_touched(row.mixture for row in rows)
            self._filled = filled
        step = self._steps[bucket, self._working]
        step.replay()
        if self._working and self._touches_head:
            assert self._head is not None
            self._head.add(step.logits)
        return step.logits[: len(rows)]

    def _keep(self, logits: torch.Tensor) -> torch.Tensor:
        """Copy a step's logits to where those of all steps are kept, so that none keeps its own."""
        if self._logits is None:  # the largest bucket's, before it is captured
            self._logits = torch.empty_like(logits)
        return self._logits[: logits.shape[0]].copy_(logits)

    def forget_rows(self) -> None:
        """Note that the LoRA batch was filled for something else, say an uncaptured step."""
        self._filled = None


class CudaCapture:
    """Captures computations as CUDA graphs that share one memory pool."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], torch.Tensor]) -> CapturedStep:
        """Run once on another stream, so that kernels are compiled and libraries have their
        workspaces, then capture."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may load adapters meanwhile; their calls must not break the capture.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = compute()
        return CapturedStep(graph.replay, logits)
