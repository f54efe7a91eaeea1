"""A step plan as tensors: one packed forward pass, then one token for each row that samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from cluster.config import EngineConfig
from cluster.domain.ids import RequestId, Slot
from cluster.engine.model_loader import LoadedModel
from cluster.engine.sampler import SamplingRow, sample
from cluster.engine.scheduler import ScheduledSequence, StepPlan
from cluster.engine.step_output import StepOutput
from cluster.errors import EngineError, ModelSourceError
from kernels.attention.batch import PagedBatch
from kernels.attention.cache import LayerKVCache
from kernels.lora.bank import AdapterBank
from kernels.lora.batch import LoraBatch


class ModelRunner:
    """Computes plans on one model. The KV cache is allocated once, here."""

    def __init__(self, loaded: LoadedModel, config: EngineConfig, bank: AdapterBank) -> None:
        """Allocate the KV cache and try the model with one token.

        Raises:
            ModelSourceError: the model's attention asks for what is not supported.
        """
        self._loaded = loaded
        self._model = loaded.model
        self._context = loaded.context
        self._threads = config.threads
        self._block_size = config.block_size
        self._bank = bank
        self._lora_rows: tuple[tuple[int, int], ...] = ()  # (arrival, tokens) of the batch kept
        self._lora_batch: LoraBatch | None = None
        self._context.bank = bank
        self._context.kv_caches = tuple(
            LayerKVCache.allocate(
                config.kv_blocks,
                config.block_size,
                loaded.num_kv_heads,
                loaded.head_dim,
                dtype=loaded.dtype,
                device=loaded.device,
            )
            for _ in range(loaded.num_layers)
        )
        self._try()

    def start(self) -> None:
        """Set the calling thread's share of the CPU."""
        if self._threads:
            torch.set_num_threads(self._threads)

    def check_adapters(self, adapters: Sequence[tuple[Slot, float]]) -> None:
        """Raises EngineError for an empty slot or a weight that is not finite."""
        for slot, weight in adapters:
            if not math.isfinite(weight):
                raise EngineError(f"adapter weight {weight} is not finite")
            try:
                self._bank.entry(slot)
            except ValueError as error:
                raise EngineError(str(error)) from error

    def execute(self, plan: StepPlan, seeds: Mapping[RequestId, int]) -> StepOutput:
        """Compute a plan.

        Raises:
            EngineError: out of memory.
        """
        try:
            logits = self._logits(plan.scheduled)
            if logits is None:
                return StepOutput({})
            return _sample(logits, [item for item in plan.scheduled if item.samples], seeds)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise EngineError("the engine is out of device memory") from error

    def _logits(self, scheduled: Sequence[ScheduledSequence]) -> torch.Tensor | None:
        """[rows that sample, vocabulary] in fp32; None when no row does."""
        tokens: list[int] = []
        positions: list[int] = []
        sampling: list[int] = []
        for item in scheduled:
            tokens += item.sequence.token_ids[item.start : item.end]
            positions += range(item.start, item.end)
            if item.samples:
                sampling.append(len(tokens) - 1)
        batch = PagedBatch.build(
            [item.sequence.block_table for item in scheduled],
            [item.start for item in scheduled],
            [item.count for item in scheduled],
            block_size=self._block_size,
            dtype=self._loaded.dtype,
            device=self._loaded.device,
        )
        return self._forward(tokens, positions, sampling, batch, self._lora(scheduled))

    @torch.inference_mode()
    def _forward(
        self,
        tokens: list[int],
        positions: list[int],
        sampling: list[int],
        batch: PagedBatch,
        lora: LoraBatch | None,
    ) -> torch.Tensor | None:
        device = self._loaded.device
        # A copy of both in one transfer, [2, 1, T].
        packed = torch.tensor([[tokens], [positions]]).to(device, non_blocking=True)
        inputs = {"input_ids": packed[0], "position_ids": packed[1], "use_cache": False}
        self._context.attention = batch
        self._context.lora = lora
        try:
            if not sampling:
                self._model.model(**inputs)  # type: ignore[operator]
                return None
            # 0 keeps all rows: no copy where every token samples.
            keep: torch.Tensor | int = 0
            if len(sampling) < len(tokens):
                keep = torch.tensor(sampling).to(device, non_blocking=True)
            logits: torch.Tensor = self._model(**inputs, logits_to_keep=keep).logits
            return logits[0].float()
        finally:
            self._context.attention = None
            self._context.lora = None

    def _lora(self, scheduled: Sequence[ScheduledSequence]) -> LoraBatch | None:
        """The step's adapters; the last batch is kept while the same sequences go on decoding.

        A live sequence's slots hold the same adapters until it ends, and no two sequences have the
        same arrival number, so equal rows mean an equal batch.
        """
        if not any(item.sequence.adapters for item in scheduled):
            return None
        rows = tuple((item.sequence.arrival, item.count) for item in scheduled)
        kept = self._lora_batch
        if rows != self._lora_rows or kept is None or not kept.valid:
            kept = LoraBatch.build(
                [(item.count, item.sequence.adapters) for item in scheduled], self._bank
            )
            self._lora_rows, self._lora_batch = rows, kept
        return kept

    def _try(self) -> None:
        """One token through block 0, so that an unsupported model is refused when it is loaded."""
        batch = PagedBatch.build(
            [[0]],
            [0],
            [1],
            block_size=self._block_size,
            dtype=self._loaded.dtype,
            device=self._loaded.device,
        )
        try:
            logits = self._forward([0], [0], [0], batch, None)
        except (EngineError, TypeError, RuntimeError) as error:
            raise ModelSourceError(f"{type(self._model).__name__} cannot run: {error}") from error
        if logits is None or logits.shape != (1, self._loaded.vocab_size):
            found = None if logits is None else tuple(logits.shape)
            raise ModelSourceError(
                f"{type(self._model).__name__} answers with logits of shape {found}, "
                f"expected {(1, self._loaded.vocab_size)}"
            )
        if not bool(torch.isfinite(logits).all()):
            raise ModelSourceError(f"{type(self._model).__name__} answers with NaN or infinity")


def _sample(
    logits: torch.Tensor, items: Sequence[ScheduledSequence], seeds: Mapping[RequestId, int]
) -> StepOutput:
    rows = []
    for item in items:
        sequence = item.sequence
        params = sequence.request.sampling
        rows.append(
            SamplingRow(
                temperature=params.temperature,
                top_p=params.top_p,
                top_k=params.top_k,
                seed=seeds[sequence.request_id],
                index=sequence.num_generated,
                logprobs=params.logprobs,
            )
        )
    with torch.inference_mode():
        sampled = sample(logits, rows)
    ids = [item.sequence.request_id for item in items]
    return StepOutput(
        token_ids=dict(zip(ids, sampled.token_ids, strict=True)),
        logprobs={
            request_id: logprobs
            for request_id, logprobs in zip(ids, sampled.logprobs, strict=True)
            if logprobs is not None
        },
        failed=dict.fromkeys(
            (ids[row] for row in sampled.invalid_rows), "the model answered with NaN or infinity"
        ),
    )
