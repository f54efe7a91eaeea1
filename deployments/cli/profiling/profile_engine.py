"""Runs requests on an engine of its own, and keeps what each of its steps cost."""

import random
import threading
from pathlib import Path
from typing import Any

import transformers

from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.base_model.source import ModelLocation
from cluster.clock import SystemClock
from cluster.config import AppConfig
from cluster.domain.decision import RoutingDecision
from cluster.domain.ids import DecisionId, RequestId, Slot, TenantId
from cluster.domain.request import GenerationChunk, GenerationRequest, SamplingParams
from cluster.domain.work import LoadTotals, StepTotals
from cluster.engine.factory import build_engine
from cluster.engine.port import LoadableAdapter
from cluster.errors import EngineError
from deployments.cli.profiling.profile_cells import ANSWER, ProfileCell

TENANT = TenantId("profile")
DECISION = RoutingDecision.of_base(DecisionId("dec_profile"), TENANT)
STOP_S = 30.0


class ProfileEngine:
    """An idle engine with adapters in its slots; ``close`` it.

    Raises:
        ModelSourceError: the model cannot be loaded.
        ConfigError: the configuration does not fit the machine.
    """

    def __init__(self, model: ModelLocation, config: AppConfig) -> None:
        transformers_logging: Any = transformers.utils.logging
        transformers_logging.disable_progress_bar()
        self._clock = SystemClock()
        self._changed = threading.Condition()
        self._live: set[str] = set()
        self._errors: list[str] = []
        self._totals = StepTotals()
        self.steps: list[StepTotals] = []
        """Work between two deliveries of chunks, in order."""
        started = self._clock.monotonic()
        self._built = build_engine(
            model.path,
            config.engine,
            config.adapters,
            clock=self._clock,
            on_chunks=self._receive,
            new_seed=lambda: 0,
        )
        self.build_s = self._clock.monotonic() - started
        self._base = BaseShapes.of_model(
            model.path,
            model.digest,
            model.model_id,
            self._built.module_shapes,
            self._built.vocab_size,
        )
        self._built.engine.start()

    @property
    def device(self) -> str:
        """Name of the processor that it computes on."""
        return self._built.device

    @property
    def longest(self) -> int:
        """Longest prompt and answer together, in tokens."""
        return self._built.engine.max_model_len

    @property
    def kv_blocks(self) -> int:
        """KV blocks in all."""
        return self._built.engine.stats().kv_blocks_total

    def read_adapter(self, folder: Path) -> tuple[LoadableAdapter, LoadTotals]:
        """Read an adapter's files; the load lacks the copy to a slot."""
        started = self._clock.monotonic()
        adapter = self._built.adapters.read_adapter(folder, self._base, links_below=folder.parent)
        return adapter, LoadTotals(1, adapter.nbytes, self._clock.monotonic() - started)

    def place(self, slot: int, adapter: LoadableAdapter) -> LoadTotals:
        """Copy an adapter to a slot."""
        started = self._clock.monotonic()
        self._built.adapters.place(slot, adapter)
        return LoadTotals(1, adapter.nbytes, self._clock.monotonic() - started)

    def clear(self, slots: int) -> None:
        """Empty the first slots."""
        for slot in range(slots):
            self._built.adapters.clear(slot)

    def run(self, cell: ProfileCell, rng: random.Random, timeout_s: float = 600.0) -> None:
        """Submit a cell's requests and wait for their ends; their prompts are like no others.

        Raises:
            EngineError: a request failed, or took longer than ``timeout_s``.
        """
        engine = self._built.engine
        sampling = SamplingParams(max_tokens=ANSWER, temperature=0.0, ignore_eos=True)
        names = [f"profile-{rng.getrandbits(64):016x}" for _ in range(cell.requests)]
        with self._changed:
            self._live.update(names)
        for number, name in enumerate(names):
            prompt = tuple(rng.randrange(self._built.vocab_size) for _ in range(cell.prompt))
            slots = ((Slot(number % cell.adapters), 1.0),) if cell.adapters else ()
            request = GenerationRequest(RequestId(name), TENANT, prompt, sampling, DECISION)
            engine.submit(request, name, slots)
        with self._changed:
            if not self._changed.wait_for(lambda: not self._live, timeout_s):
                raise EngineError(
                    f"{cell.requests} requests of {cell.prompt} tokens took longer than "
                    f"{timeout_s:g} s; measure on an idle machine"
                )
            if self._errors:
                raise EngineError(f"a request of the measurement failed: {self._errors[0]}")

    def close(self) -> None:
        """Stop the engine."""
        self._built.engine.stop(drain=False, timeout_s=STOP_S)

    def _receive(self, chunks: list[GenerationChunk]) -> None:
        totals = self._built.engine.stats().counters.step_totals
        with self._changed:
            self.steps.append(totals.since(self._totals))
            self._totals = totals
            for chunk in chunks:
                if chunk.error_message is not None:
                    self._errors.append(chunk.error_message)
                if chunk.finish_reason is not None:
                    self._live.discard(chunk.request_id)
            self._changed.notify_all()
