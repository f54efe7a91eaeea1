"""Whole generations through the engine, as a replica runs it: ``Engine.submit`` and its chunks."""

import itertools
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.engine.cases import Mixture
from cluster.clock import SystemClock
from cluster.config import AdapterConfig, EngineConfig
from cluster.domain.decision import RoutingDecision
from cluster.domain.ids import DecisionId, RequestId, Slot, TenantId
from cluster.domain.request import (
    GenerationChunk,
    GenerationRequest,
    SamplingParams,
    TokenLogprobs,
)
from cluster.engine.factory import build_torch_engine
from cluster.errors import EngineError

_TENANT = TenantId("bench")

DECISION = RoutingDecision.of_base(DecisionId("dec_bench"), _TENANT)


def make_request(
    name: str, prompt: Sequence[int], output: int, logprobs: int | None = None
) -> GenerationRequest:
    """Make a greedy request of exactly ``output`` tokens."""
    sampling = SamplingParams(
        max_tokens=output, temperature=0.0, ignore_eos=True, logprobs=logprobs
    )
    return GenerationRequest(RequestId(name), _TENANT, tuple(prompt), sampling, DECISION)


@dataclass(frozen=True)
class Generated:
    """One batch, answered."""

    seconds: float  # from the first submission to the last token
    step_s: float | None  # median of the steps in which every request got a token, but the first
    tokens: tuple[tuple[int, ...], ...]  # per request
    logprobs: tuple[tuple[TokenLogprobs, ...], ...]  # likewise, empty if not asked for


@dataclass
class _Arrivals:
    """Collects the chunks of one batch."""

    waiting: set[str] = field(default_factory=set)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    steps: list[tuple[float, int]] = field(default_factory=list)  # (time, tokens)
    failed: list[str] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def receive(self, chunks: list[GenerationChunk]) -> None:
        self.steps.append((time.perf_counter(), sum(len(chunk.token_ids) for chunk in chunks)))
        for chunk in chunks:
            self.tokens[chunk.request_id] += chunk.token_ids
            self.logprobs[chunk.request_id] += chunk.logprobs
            if chunk.error_code is not None:
                self.failed.append(f"{chunk.request_id}: {chunk.error_message}")
            if chunk.finish_reason is not None:
                self.waiting.discard(chunk.request_id)
        if not self.waiting:
            self.done.set()


class EngineRun:
    """A running engine. One batch at a time; the bank is the caller's between batches."""

    def __init__(self, model: Path, config: EngineConfig, adapter_config: AdapterConfig) -> None:
        """Load the model and start the engine.

        Raises:
            ModelSourceError: the model cannot be loaded.
            ConfigError: the configuration does not fit the machine.
        """
        self._arrivals = _Arrivals()
        self._numbers = itertools.count()
        built = build_torch_engine(
            model,
            config,
            adapter_config,
            clock=SystemClock(),
            on_chunks=lambda chunks: self._arrivals.receive(chunks),
            new_seed=lambda: 0,
        )
        self.bank = built.bank
        self.modules = built.module_shapes
        self._engine = built.engine
        self._engine.start()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        mixtures: Sequence[Mixture],
        output: int,
        *,
        logprobs: int | None = None,
    ) -> Generated:
        """Submit a batch at once and wait for its end.

        Args:
            prompts: token ids per request.
            mixtures: (slot, weight) per request.
            output: tokens of each answer.
            logprobs: likeliest tokens to keep for each position; None: none.

        Raises:
            EngineError: a request failed.
        """
        number = next(self._numbers)
        names = [f"bench-{number}-{index}" for index in range(len(prompts))]
        arrivals = self._arrivals = _Arrivals(
            set(names), {name: [] for name in names}, {name: [] for name in names}
        )
        started = time.perf_counter()
        for name, prompt, mixture in zip(names, prompts, mixtures, strict=True):
            slots = tuple((Slot(slot), weight) for slot, weight in mixture)
            self._engine.submit(make_request(name, prompt, output, logprobs), name, slots)
        arrivals.done.wait()
        if arrivals.failed:
            raise EngineError(f"requests failed: {'; '.join(arrivals.failed)}")
        whole = [
            now - before
            for (before, _), (now, count) in itertools.pairwise(arrivals.steps)
            if count == len(prompts)
        ]
        return Generated(
            seconds=arrivals.steps[-1][0] - started,
            step_s=statistics.median(whole[1:]) if len(whole) > 1 else None,
            tokens=tuple(tuple(arrivals.tokens[name]) for name in names),
            logprobs=tuple(tuple(arrivals.logprobs[name]) for name in names),
        )

    def stop(self) -> None:
        """End the step thread."""
        self._engine.stop(drain=False, timeout_s=10.0)
