"""A step plan as tensors: one packed forward pass, then one token for each row that samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import structlog
import torch

from cluster.base_model.checks import decoder_layers
from cluster.config import EngineConfig
from cluster.domain.ids import RequestId, Slot
from cluster.engine.execution.fused_decoder import FusedDecoder, fuse_decoder
from cluster.engine.execution.request_checks import RequestChecks
from cluster.engine.execution.step_batches import StepBatches, make_batches
from cluster.engine.execution.step_mixing import MixedRows, SiteMap, StepMixing, enter_layers
from cluster.engine.execution.step_rows import StepRows, step_output
from cluster.engine.mixing import Mixing
from cluster.engine.mixing_parts import MixingParts
from cluster.engine.model.model_loader import LoadedModel
from cluster.engine.steps import ScheduledSequence, StepOutput, StepPlan
from cluster.errors import EngineError, ModelSourceError
from kernels.attention.cache import LayerKVCache
from kernels.attention.paged import AnyPagedBatch
from kernels.lora.bank import AdapterBank
from kernels.lora.torch_ops import AnyLoraBatch

log = structlog.get_logger(__name__)

_Spans = tuple[tuple[int, int], ...]
"""Of `cluster.engine.spans.spans_between`."""

_TRIAL_TOKENS = 24
"""Tokens of the prefill that tries a model."""

_FUSED_AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference from the model's own logits, relative to the largest of them, with which the
fused decoder is used: the roundings of all layers, far below what another formula gives."""


class ModelRunner:
    """Computes plans on one model. The KV cache is allocated once, here."""

    def __init__(
        self,
        loaded: LoadedModel,
        config: EngineConfig,
        bank: AdapterBank,
        mixing: MixingParts | None = None,
        batches: StepBatches | None = None,
        size_cache: Callable[[int], int] | None = None,
    ) -> None:
        """Allocate the KV cache and try the model with one token.

        ``mixing`` are the gates and routers that sequences may name; they are moved to the model's
        device. ``batches`` are the device's own unless given. ``size_cache`` returns the number of
        KV blocks, given the bytes that the largest step takes on a GPU; None: as configured.

        Raises:
            ModelSourceError: the model's attention asks for what is not supported.
        """
        self._loaded = loaded
        self._model = loaded.model
        self._context = loaded.context
        self._threads = config.threads
        self._block_size = config.block_size
        self._bank = bank
        self._rows_kept: tuple[tuple[int, _Spans, bool], ...] = ()  # of the batch kept, see _lora
        self._lora_batch: AnyLoraBatch | None = None
        self._touches_head = False  # any adapter of that batch
        self._batches = make_batches(loaded, config, bank) if batches is None else batches
        self._step_mixing: StepMixing | None = None
        self._mixing = MixingParts() if mixing is None else mixing
        self._mixing.move_to(loaded.device)
        layer_sites = loaded.sites[: loaded.head_site]
        self._sites = SiteMap(layer_sites, loaded.num_layers, loaded.device)
        self._hidden_size = int(loaded.model.config.hidden_size)  # type: ignore[union-attr,arg-type]
        self._checks = RequestChecks(
            bank,
            self._mixing,
            self._sites.paths.keys(),
            num_layers=loaded.num_layers,
            hidden_size=self._hidden_size,
        )
        self._fused: FusedDecoder | None = None
        self._context.bank = bank
        if size_cache is None:
            self.kv_blocks = config.usual_kv_blocks
        else:
            with self._refused():
                self.kv_blocks = size_cache(self._measure_largest_step(config))
        self._allocate_cache(self.kv_blocks)
        self._try()
        if self._fused is not None:  # its operations never wait for the device
            self._batches.capture(self._decode)

    def _allocate_cache(self, blocks: int) -> None:
        loaded = self._loaded
        self._context.kv_caches = tuple(
            LayerKVCache.allocate(
                blocks,
                self._block_size,
                loaded.num_kv_heads,
                loaded.head_dim,
                dtype=loaded.dtype,
                device=loaded.device,
            )
            for _ in range(loaded.num_layers)
        )

    def _measure_largest_step(self, config: EngineConfig) -> int:
        """Run the largest step on a cache of its own; returns the bytes that it takes on a GPU
        besides the cache.

        Prompts fill the step, and as many tokens as the batch has rows are asked for.
        """
        longest = self._loaded.max_model_len
        left = max(config.max_batch_tokens, config.max_batch_size)
        counts: list[int] = []
        while left:
            counts.append(min(left, longest))
            left -= counts[-1]
        tables: list[list[int]] = []
        blocks = 0
        for count in counts:
            needed = -(-count // self._block_size)
            tables.append(list(range(blocks, blocks + needed)))
            blocks += needed
        self._allocate_cache(blocks)
        on_gpu = self._loaded.device.type == "cuda"
        before = 0
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        positions = [position for count in counts for position in range(count)]
        wanted = list(range(len(positions)))[-config.max_batch_size :]
        batch = self._batches.attention(tables, [0] * len(counts), counts)
        self._forward([0] * len(positions), positions, wanted, batch, None)
        taken = 0
        if on_gpu:
            torch.cuda.synchronize()
            taken = torch.cuda.max_memory_allocated() - before
        self._context.kv_caches = ()
        if on_gpu:
            torch.cuda.empty_cache()
        return taken

    def start(self) -> None:
        """Set the calling thread's share of the CPU."""
        if self._threads:
            torch.set_num_threads(self._threads)

    def check_adapters(self, adapters: Sequence[tuple[Slot, float]]) -> None:
        """Refuse a mixture that cannot be applied, as in `Runner`."""
        self._checks.check_adapters(adapters)

    def check_mixing(self, num_adapters: int, mixing: Mixing) -> None:
        """Refuse a mixing that cannot be applied, as in `Runner`."""
        self._checks.check_mixing(num_adapters, mixing)

    def adapter_size(self, slot: Slot) -> tuple[int, int]:
        """Return the bytes and the largest rank of a slot's adapter, as in `Runner`."""
        return self._bank.size(slot)

    def execute(self, plan: StepPlan, seeds: Mapping[RequestId, int]) -> StepOutput:
        """Compute a plan.

        Raises:
            EngineError: out of memory.
        """
        try:
            rows = StepRows.of(plan.scheduled)
            logits = self._logits(plan.scheduled, rows)
            output = StepOutput({}) if logits is None else step_output(logits, rows, seeds)
            if self._step_mixing is not None:
                output = replace(
                    output,
                    decided=self._step_mixing.take_decided(),
                    gate_weights=self._step_mixing.take_explained(),
                )
            return output
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise EngineError("the engine is out of device memory") from error

    def rest(self) -> None:
        """Forget the last step's adapters, whose storage could not be freed otherwise."""
        self._rows_kept, self._lora_batch, self._step_mixing = (), None, None
        self._batches.rest()

    def _logits(
        self, scheduled: Sequence[ScheduledSequence], rows: StepRows
    ) -> torch.Tensor | None:
        """Return [rows, vocabulary] in fp32, of the rows wanted; None for no row."""
        if rows.packed == list(range(len(scheduled))):
            decoded = self._batches.decode(scheduled)
            if decoded is not None:  # it may have written over the batch kept
                self._rows_kept, self._step_mixing = (), None
                return decoded.float()
        tokens: list[int] = []
        positions: list[int] = []
        for item in scheduled:
            tokens += item.sequence.token_ids[item.start : item.end]
            positions += range(item.start, item.end)
        batch = self._batches.attention(
            [item.sequence.block_table for item in scheduled],
            [item.start for item in scheduled],
            [item.count for item in scheduled],
        )
        lora = self._lora(scheduled)
        head = None
        if lora is not None and self._touches_head and rows.packed:
            whole = rows.packed == list(range(len(tokens)))
            head = lora if whole else self._batches.head(list(rows.mixtures))
        return self._forward(tokens, positions, rows.packed, batch, lora, head)

    @torch.inference_mode()
    def _forward(
        self,
        tokens: list[int],
        positions: list[int],
        wanted: list[int],
        batch: AnyPagedBatch,
        lora: AnyLoraBatch | None,
        head: AnyLoraBatch | None = None,
    ) -> torch.Tensor | None:
        """Return the logits of the ``wanted`` tokens; ``head``: the adapters of these at the output
        head."""
        device = self._loaded.device
        # A copy of both in one transfer, [2, T].
        inputs = torch.tensor([tokens, positions]).to(device, non_blocking=True)
        rows = None  # every token's, in order
        if wanted != list(range(len(tokens))):
            rows = torch.tensor(wanted, dtype=torch.long).to(device, non_blocking=True)
        self._context.attention = batch
        self._context.lora = lora
        self._context.head = head
        self._context.mixing = self._step_mixing if lora is not None else None
        try:
            if not wanted:
                self._hidden(inputs)
                return None
            return self._logits_of(inputs, rows).float()
        finally:
            self._context.attention = None
            self._context.lora = None
            self._context.head = None
            self._context.mixing = None

    @torch.inference_mode()
    def _decode(
        self,
        inputs: torch.Tensor,
        batch: AnyPagedBatch,
        lora: AnyLoraBatch | None,
        head_input: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return [rows, vocabulary] for ``inputs`` [2, rows], as a captured step computes them,
        without LoRA on the output head; what that reads is kept in ``head_input``."""
        self._context.attention = batch
        self._context.lora = lora
        self._context.head_input = head_input
        try:
            return self._logits_of(inputs, None)
        finally:
            self._context.attention = None
            self._context.lora = None
            self._context.head_input = None

    def _hidden(self, inputs: torch.Tensor) -> None:
        """Fills the KV cache for ``inputs`` [2, T], tokens and positions."""
        if self._fused is not None:
            self._fused.hidden(inputs[0], inputs[1])
        else:
            self._model.model(  # type: ignore[operator]
                input_ids=inputs[:1], position_ids=inputs[1:], use_cache=False
            )

    def _logits_of(self, inputs: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
        """Return [rows, vocabulary] for ``inputs`` [2, T]; ``rows`` None: all."""
        if self._fused is not None:
            return self._fused(inputs[0], inputs[1], rows)
        answer = self._model(
            input_ids=inputs[:1],
            position_ids=inputs[1:],
            use_cache=False,
            logits_to_keep=0 if rows is None else rows,  # 0 keeps all
        )
        logits: torch.Tensor = answer.logits[0]
        return logits

    def _lora(self, scheduled: Sequence[ScheduledSequence]) -> AnyLoraBatch | None:
        """Return the step's adapters; the last batch is kept while the same sequences keep
        decoding.

        A live sequence's slots hold the same adapters while it is in one span, no two sequences
        have the same arrival number, and a router's answer is the only change of how adapters are
        weighed within a span: equal rows mean an equal batch.
        """
        if not any(s.adapters for item in scheduled for s in item.sequence.spans):
            self.rest()
            return None
        rows = tuple(
            (
                s.arrival,
                s.spans_between(item.start, item.end),
                s.mixing is not None and s.mixing.is_pending,
            )
            for item in scheduled
            for s in (item.sequence,)
        )
        kept = self._lora_batch
        if rows == self._rows_kept and kept is not None and kept.valid:
            return kept
        parts = [
            (count, item.sequence.spans[span].adapters)
            for item, (_, spans, _) in zip(scheduled, rows, strict=True)
            for span, count in spans
        ]
        if not any(adapters for _, adapters in parts):
            self.rest()
            return None
        kept = self._batches.lora(parts)
        head_site = self._loaded.head_site
        self._touches_head = any(
            self._bank.touches(slot, head_site) for _, adapters in parts for slot, _ in adapters
        )
        self._rows_kept, self._lora_batch = rows, kept
        self._step_mixing = None if kept is None else self._mix(kept, scheduled)
        return kept

    def _mix(
        self, batch: AnyLoraBatch, scheduled: Sequence[ScheduledSequence]
    ) -> StepMixing | None:
        """Return the changing weights of a batch; None if each adapter has one weight."""
        if all(item.sequence.mixing is None for item in scheduled):
            return None
        rows = []
        first = 0
        for item in scheduled:
            s = item.sequence
            seen = None if s.mixing is None else s.mixing.prompt_tokens
            prompt = min(item.end, s.prompt_len if seen is None else seen) - item.start
            explain = s.request.sampling.explain
            rows.append(MixedRows(s.request_id, s.mixing, first, item.count, prompt, explain))
            first += item.count
        parts = self._mixing
        return StepMixing(batch, rows, parts.gates, parts.routers, self._sites)

    @contextmanager
    def _refused(self) -> Iterator[None]:
        """Refuse a model that cannot be run."""
        try:
            yield
        except (EngineError, TypeError, RuntimeError) as error:
            raise ModelSourceError(f"{type(self._model).__name__} cannot run: {error}") from error

    def _try(self) -> None:
        """Run a few tokens through the first blocks, so that an unsupported model is refused when
        it is loaded, and the fused decoder is used only where it agrees with the model's own
        modules."""
        with self._refused():
            expected = self._trial()
        vocab_size = self._loaded.vocab_size
        if any(logits.shape[-1] != vocab_size for logits in expected):
            raise ModelSourceError(
                f"{type(self._model).__name__} answers with logits of shape "
                f"{tuple(expected[0].shape)}, expected {(1, vocab_size)}"
            )
        if not all(bool(torch.isfinite(logits).all()) for logits in expected):
            raise ModelSourceError(f"{type(self._model).__name__} answers with NaN or infinity")
        enter_layers(decoder_layers(self._model), self._context)
        self._fused = fuse_decoder(self._model, decoder_layers(self._model), self._context)
        if self._fused is None:
            return
        limit = _FUSED_AGREEMENT[self._loaded.dtype]
        for want, got in zip(expected, self._trial(), strict=True):
            apart = float((got - want).abs().max() / want.abs().max().clamp_min(1e-6))
            if not apart <= limit:
                log.warning("fused decoder differs from the model", difference=apart, limit=limit)
                self._fused = None
                return

    def _trial(self) -> list[torch.Tensor]:
        """Return the logits of a prefill, and of a decode step after it."""
        size = self._block_size
        room = min(size * self.kv_blocks, self._loaded.max_model_len)
        prompt = min(_TRIAL_TOKENS, room - 1)
        steps = [(0, 1)] if prompt < 1 else [(0, prompt), (prompt, 1)]
        answers = []
        for start, count in steps:
            blocks = list(range(-(-(start + count) // size)))
            batch = self._batches.attention([blocks], [start], [count])
            positions = list(range(start, start + count))
            tokens = [position % self._loaded.vocab_size for position in positions]
            logits = self._forward(tokens, positions, [count - 1], batch, None)
            assert logits is not None
            answers.append(logits)
        return answers
