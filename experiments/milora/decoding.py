"""An engine that times the steps in which all requests of a batch decode."""

import itertools
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import torch

from benchmarks.engine.engine_run import make_request
from cluster.clock import SystemClock
from cluster.config import AdapterConfig, EngineConfig
from cluster.domain.ids import Slot
from cluster.domain.request import GenerationChunk
from cluster.engine.factory import build_torch_engine
from cluster.engine.mixing import Mixing
from cluster.engine.mixing_parts import MixingParts
from cluster.errors import EngineError

_STRIDE = 7  # between the tokens of a prompt, which are arbitrary


@dataclass(frozen=True, slots=True)
class Reading:
    """Counts at one moment."""

    wall_s: float
    cpu_s: float  # of the whole process
    calls: int  # of the case's router


@dataclass(frozen=True, slots=True)
class Timed:
    """One batch."""

    prefill_s: float  # from the first submission to every request's first token
    prefill_calls: int  # of the router, in that time
    decoded: int  # tokens from then until the first request ended
    wall_s: float  # of that time
    cpu_s: float
    decode_calls: int


@dataclass(slots=True)
class _Batch:
    """A batch that is running."""

    waiting: set[str]  # have no token yet
    running: set[str]
    read: Callable[[], Reading]
    decoded: int = 0
    first: Reading | None = None
    last: Reading | None = None
    failed: list[str] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def receive(self, chunks: list[GenerationChunk]) -> None:
        """Take what a step produced; called in the step thread."""
        if self.first is not None and self.last is None:
            self.decoded += sum(len(chunk.token_ids) for chunk in chunks)
        for chunk in chunks:
            if chunk.token_ids:
                self.waiting.discard(chunk.request_id)
            if chunk.error_message is not None:
                self.failed.append(f"{chunk.request_id}: {chunk.error_message}")
            if chunk.finish_reason is not None:
                self.running.discard(chunk.request_id)
                self.last = self.last or self.read()
        if self.first is None and not self.waiting:
            self.first = self.read()
        if not self.running:
            self.done.set()


class TimedEngine:
    """An engine with random adapters; a context manager. One batch at a time."""

    def __init__(
        self, model: Path, config: EngineConfig, limits: AdapterConfig, parts: MixingParts
    ) -> None:
        """Load the model; ``parts`` may be added to, and moved, until the first batch.

        Raises:
            ModelSourceError: the model cannot be loaded.
        """
        self._batch: _Batch | None = None
        self._numbers = itertools.count()
        self._built = build_torch_engine(
            model,
            config,
            limits,
            clock=SystemClock(),
            on_chunks=self._receive,
            new_seed=lambda: 0,
            mixing=parts,
        )
        described = json.loads((model / "config.json").read_text(encoding="utf-8"))
        self.num_layers = int(described["num_hidden_layers"])
        self.hidden_size = int(described["hidden_size"])

    def __enter__(self) -> "TimedEngine":
        self._built.engine.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._built.engine.stop(drain=False)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self._built.bank.device

    @property
    def input_widths(self) -> dict[str, int]:
        """Of each linear module of a decoder layer, by its short name."""
        shapes = self._built.module_shapes.items()
        return {path.rpartition(".")[2]: d_in for path, (_, d_in) in shapes}

    def write(self, slot: Slot, rank: int, generator: torch.Generator) -> None:
        """Write a random adapter on every linear."""
        self._built.bank.write(
            slot,
            {
                path: (
                    torch.randn(rank, d_in, generator=generator) / d_in**0.5,
                    torch.randn(d_out, rank, generator=generator) * 1e-3,
                    1.0,
                )
                for path, (d_out, d_in) in self._built.module_shapes.items()
            },
        )

    def decode(
        self,
        batch: int,
        prompt_tokens: int,
        tokens: int,
        adapters: tuple[tuple[Slot, float], ...],
        mixing: Mixing | None,
        calls: Callable[[], int],
    ) -> Timed:
        """Let ``batch`` prompts, each another one, be continued by ``tokens`` tokens.

        Args:
            batch: requests, submitted at once.
            prompt_tokens: of each prompt.
            tokens: of each answer; 3 or more.
            adapters: (slot, weight) of every request.
            mixing: how they are weighed beyond that.
            calls: how often the case's router has been asked so far.

        Raises:
            EngineError: a request failed.
        """
        number = next(self._numbers)
        names = [f"timed-{number}-{index}" for index in range(batch)]

        def read() -> Reading:
            return Reading(time.perf_counter(), time.process_time(), calls())

        running = self._batch = _Batch(set(names), set(names), read)
        started = read()
        for index, name in enumerate(names):
            start = number * batch + index
            ids = [(start + _STRIDE * at) % self._built.vocab_size for at in range(prompt_tokens)]
            self._built.engine.submit(make_request(name, ids, tokens), name, adapters, mixing)
        running.done.wait()
        if running.failed:
            raise EngineError(f"requests failed: {'; '.join(running.failed)}")
        first, last = running.first, running.last
        assert first is not None
        assert last is not None
        return Timed(
            prefill_s=first.wall_s - started.wall_s,
            prefill_calls=first.calls - started.calls,
            decoded=running.decoded,
            wall_s=last.wall_s - first.wall_s,
            cpu_s=last.cpu_s - first.cpu_s,
            decode_calls=last.calls - first.calls,
        )

    def _receive(self, chunks: list[GenerationChunk]) -> None:
        assert self._batch is not None
        self._batch.receive(chunks)
