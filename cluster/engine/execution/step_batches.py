"""Batches that a step's kernels read: built per step for torch, or in fixed buffers for CUDA
graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import structlog
import torch

from cluster.config import EngineConfig
from cluster.engine.execution.captured_head import CapturedHead, head_terms
from cluster.engine.execution.cuda_graphs import (
    Capture,
    CudaCapture,
    DecodeGraphs,
    DecodeRow,
    decode_buckets,
)
from cluster.engine.model.model_loader import LoadedModel
from cluster.engine.steps import ScheduledSequence
from cluster.errors import ConfigError
from kernels.attention.attention_batch import PagedBatch
from kernels.attention.attention_triton_batch import TritonPagedBatch
from kernels.attention.paged import AnyPagedBatch
from kernels.lora.bank import AdapterBank
from kernels.lora.lora_batch import LoraBatch, Mixture
from kernels.lora.lora_triton_batch import TritonLoraBatch
from kernels.lora.lora_triton_dispatch import available
from kernels.lora.torch_ops import AnyLoraBatch
from kernels.lora.triton_warm_up import compile_kernels

log = structlog.get_logger(__name__)

StepForward = Callable[
    [torch.Tensor, AnyPagedBatch, AnyLoraBatch | None, torch.Tensor | None], torch.Tensor
]
"""Logits [T, vocabulary] of inputs [2, T] (token ids, positions) on the device, LoRA on the output
head left out; what the head read is kept in the last argument, [T or more, hidden]."""

MAX_PAIRS = 8
"""Adapters of a row for which Triton batches have room by default."""


class StepBatches(Protocol):
    """One kind of device's way of telling kernels about a step."""

    def attention(
        self, tables: Sequence[Sequence[int]], starts: Sequence[int], counts: Sequence[int]
    ) -> AnyPagedBatch:
        """Return the step's view of the cache, valid until the next call; per row its blocks, its
        tokens in the cache and its new tokens."""
        ...

    def lora(self, rows: Sequence[tuple[int, Mixture]]) -> AnyLoraBatch | None:
        """Return the step's adapters, valid until the next call or ``decode``; None for the base
        alone.

        Raises:
            ValueError: an empty slot, or a weight that is not finite.
        """
        ...

    def head(self, mixtures: Sequence[Mixture]) -> AnyLoraBatch | None:
        """Return the adapters of single rows at the output head, valid until the next call; None if
        none of them has LoRA there."""
        ...

    def capture(self, forward: StepForward, /) -> None:
        """Capture nothing."""
        ...

    def decode(self, scheduled: Sequence[ScheduledSequence], /) -> torch.Tensor | None:
        """Return the logits [rows, vocabulary] of a captured step, valid until the next call; None
        if the step is not one that is captured."""
        ...

    def rest(self) -> None:
        """Release the last step's adapters, whose memory could not be freed otherwise."""
        ...


class TorchBatches:
    """Batches built for each step; nothing is captured.

    The last of the bank's sites is the output head's.
    """

    def __init__(
        self, bank: AdapterBank, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._bank = bank
        self._head_site = len(bank.sites) - 1
        self._block_size, self._dtype, self._device = block_size, dtype, device

    def attention(
        self, tables: Sequence[Sequence[int]], starts: Sequence[int], counts: Sequence[int]
    ) -> AnyPagedBatch:
        """Return the step's view of the cache, as in `StepBatches`."""
        return PagedBatch.build(
            tables,
            starts,
            counts,
            block_size=self._block_size,
            dtype=self._dtype,
            device=self._device,
        )

    def lora(self, rows: Sequence[tuple[int, Mixture]]) -> AnyLoraBatch | None:
        """Return the step's adapters, as in `StepBatches`."""
        return LoraBatch.build(rows, self._bank)

    def head(self, mixtures: Sequence[Mixture]) -> AnyLoraBatch | None:
        """Return the adapters at the output head, as in `StepBatches`."""
        rows = [(1, head_terms(self._bank, self._head_site, terms)) for terms in mixtures]
        return LoraBatch.build(rows, self._bank)

    def capture(self, _: StepForward) -> None:
        """Capture nothing."""

    def decode(self, _: Sequence[ScheduledSequence]) -> torch.Tensor | None:
        """Return None: nothing is captured."""
        return None

    def rest(self) -> None:
        """Do nothing: each step's batch is its own."""


class TritonBatches:
    """Batches in buffers that are refilled, and decode steps replayed over them.

    A step that has no room in the buffers (a prompt computed whole, beyond the step's usual budget,
    or a larger mixture) gets torch's batches.
    """

    def __init__(
        self,
        paged: TritonPagedBatch,
        lora: TritonLoraBatch,
        head: CapturedHead,
        larger: TorchBatches,
        capture: Capture | None,
    ) -> None:
        """Take over the buffers.

        Args:
            paged: of the cache.
            lora: of the bank.
            head: of the bank's output head.
            larger: for steps that do not fit the two.
            capture: makes captured steps; None: every step is launched again.
        """
        self._paged, self._lora, self._head, self._larger = paged, lora, head, larger
        self._capture = capture
        self._graphs: DecodeGraphs | None = None

    def compile(self) -> None:
        """Compile the kernels of adapters; those of attention are by the runner's trial."""
        compile_kernels(self._lora)

    def attention(
        self, tables: Sequence[Sequence[int]], starts: Sequence[int], counts: Sequence[int]
    ) -> AnyPagedBatch:
        """Return the step's view of the cache, as in `StepBatches`."""
        paged = self._paged
        if sum(counts) > paged.max_tokens or len(counts) > paged.max_rows:
            return self._larger.attention(tables, starts, counts)
        paged.update(tables, starts, counts)
        return paged

    def lora(self, rows: Sequence[tuple[int, Mixture]]) -> AnyLoraBatch | None:
        """Return the step's adapters, as in `StepBatches`."""
        lora = self._lora
        if (
            sum(count for count, _ in rows) > lora.max_tokens
            or len(rows) > lora.max_rows
            or any(len(mixture) > lora.max_pairs for _, mixture in rows)
        ):
            return self._larger.lora(rows)
        if self._graphs is not None:
            self._graphs.forget_rows()
        return lora if lora.update(rows) else None

    def head(self, mixtures: Sequence[Mixture]) -> AnyLoraBatch | None:
        """Return the adapters at the output head, as in `StepBatches`."""
        if not self._head.has_room(mixtures):
            return self._larger.head(mixtures)
        return self._head.batch(mixtures)

    def capture(self, forward: StepForward) -> None:
        """Capture nothing."""
        if self._capture is None:
            return
        paged, lora, head = self._paged, self._lora, self._head

        def compute(inputs: torch.Tensor, adapters: bool) -> torch.Tensor:
            if not adapters:
                return forward(inputs, paged, None, None)
            return forward(inputs, paged, lora, head.input)

        buckets = decode_buckets(paged.max_rows)
        device = lora.bank.device
        self._graphs = DecodeGraphs(compute, paged, lora, buckets, device, self._capture, head)
        log.info("decode steps captured", rows=list(buckets))

    def decode(self, scheduled: Sequence[ScheduledSequence]) -> torch.Tensor | None:
        """Return the logits of a captured step, as in `StepBatches`.

        Only steps of one token per row whose adapters have one weight each are captured.
        """
        most = self._lora.max_pairs
        if self._graphs is None or any(
            item.count != 1
            or item.sequence.mixing is not None
            or len(item.sequence.adapters) > most
            for item in scheduled
        ):
            return None
        return self._graphs.run([_row(item) for item in scheduled])

    def rest(self) -> None:
        """Release the last step's adapters, as in `StepBatches`."""
        self._lora.release()
        self._head.release()
        if self._graphs is not None:
            self._graphs.forget_rows()


def make_batches(
    loaded: LoadedModel, config: EngineConfig, bank: AdapterBank, max_pairs: int = MAX_PAIRS
) -> StepBatches:
    """Return the batches that fit a model's device.

    Args:
        loaded: the model.
        config: of its engine; it bounds a step's rows and tokens.
        bank: of its adapters.
        max_pairs: most adapters of a row.

    Raises:
        ConfigError: kernels for a GPU cannot be compiled here.
    """
    torch_batches = TorchBatches(bank, config.block_size, loaded.dtype, loaded.device)
    if not available(loaded.device):
        return torch_batches
    capture = CudaCapture() if config.cuda_graphs else None
    batches = triton_batches(loaded, config, bank, torch_batches, capture, max_pairs)
    try:
        batches.compile()
    except RuntimeError as error:
        if "C compiler" not in str(error):
            raise
        raise ConfigError(
            "Triton needs a C compiler to start kernels on a GPU, and finds none; install gcc with "
            "libc6-dev, or name one with CC. `braid doctor` looks for it"
        ) from error
    return batches


def triton_batches(
    loaded: LoadedModel,
    config: EngineConfig,
    bank: AdapterBank,
    larger: TorchBatches,
    capture: Capture | None,
    max_pairs: int = MAX_PAIRS,
) -> TritonBatches:
    """Allocate buffers of the sizes that ``config`` bounds; arguments as of `make_batches` and the
    class."""
    rows, tokens = config.max_batch_size, max(config.max_batch_tokens, config.max_batch_size)
    paged = TritonPagedBatch(
        max_tokens=tokens,
        max_rows=rows,
        max_len=loaded.max_model_len,
        block_size=config.block_size,
        device=loaded.device,
    )
    lora = TritonLoraBatch(bank, max_tokens=tokens, max_rows=rows, max_pairs=max_pairs)
    head = CapturedHead(lora, loaded.head_site)
    return TritonBatches(paged, lora, head, larger, capture)


def _row(item: ScheduledSequence) -> DecodeRow:
    sequence = item.sequence
    return DecodeRow(
        sequence=sequence.arrival,
        token=sequence.token_ids[item.start],
        position=item.start,
        block_table=sequence.block_table,
        mixture=sequence.adapters,
    )
