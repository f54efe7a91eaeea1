"""One engine behind its port, for tests that any engine must pass."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cluster.adapters.format.manifest import ANYWHERE
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.domain.ids import RequestId, Slot
from cluster.domain.request import GenerationChunk, GenerationRequest, Usage
from cluster.engine.mixing import Mixing
from cluster.engine.port import BuiltEngine, LoadableAdapter, OnChunks, OnReturned
from cluster.engine.spans import Span
from tests.support.adapter_forms import random_lora, write_folder
from tests.support.manual_clock import ManualClock

SLOTS = 4
Mixture = tuple[tuple[Slot, float], ...]


class MakeEngine(Protocol):
    """Builds one kind of engine over the tiny base model: at least 4 slots, 2 requests at once."""

    def __call__(
        self, *, clock: ManualClock, on_chunks: OnChunks, on_returned: OnReturned
    ) -> BuiltEngine: ...


@dataclass
class Told:
    """All that an engine told about one request."""

    chunks: list[GenerationChunk] = field(default_factory=list)
    returned: tuple[int, ...] | None = None

    @property
    def tokens(self) -> list[int]:
        return [token for chunk in self.chunks for token in chunk.token_ids]

    @property
    def end(self) -> GenerationChunk:
        last = self.chunks[-1]
        assert last.finish_reason is not None
        return last

    @property
    def has_ended(self) -> bool:
        return self.returned is not None or bool(self.chunks and self.chunks[-1].finish_reason)


class PortRig:
    """Requests in and whole answers out, by the port alone."""

    def __init__(self, make: MakeEngine, base: Path, folders: Path) -> None:
        self.clock = ManualClock()
        self.built = make(
            clock=self.clock, on_chunks=self._receive, on_returned=self._take_returned
        )
        self.engine = self.built.engine
        self.adapters = self.built.adapters
        self.base = BaseShapes("tiny", self.built.module_shapes, "tiny", folder=base)
        self.told: dict[str, Told] = {}
        self.on_chunk: Callable[[GenerationChunk], None] | None = None  # in the engine's thread
        self._folders = folders
        self._namespaces = ""  # begins those of its present user
        self._arrived = threading.Condition()

    def folder(self, seed: int, *, rank: int = 4, scale: float = 1.0) -> Path:
        """Write a PEFT folder on all projections, large enough to change the answers."""
        shapes = {m: s for m, s in self.built.module_shapes.items() if m.endswith("_proj")}
        tensors = random_lora(shapes, list(shapes), rank, seed)
        names = sorted({module.rpartition(".")[2] for module in shapes})
        return write_folder(
            self._folders / f"{seed}-{rank}-{scale}",
            {name: tensor * scale**0.5 for name, tensor in tensors.items()},
            r=rank,
            lora_alpha=4 * rank,
            target_modules=names,
        )

    def read(self, folder: Path) -> LoadableAdapter:
        return self.adapters.read_adapter(folder, self.base, links_below=ANYWHERE)

    def load(self, slot: int, seed: int) -> None:
        self.adapters.place(slot, self.read(self.folder(seed)))

    def submit(
        self,
        request: GenerationRequest,
        mixture: Mixture = (),
        *,
        mixing: Mixing | None = None,
        spans: Sequence[Span] = (),
    ) -> None:
        with self._arrived:
            before = self.told.get(request.request_id)
            self.told[request.request_id] = Told()
        try:
            namespace = f"{self._namespaces}{mixture!r}"
            self.engine.submit(request, namespace, mixture, mixing, spans)
        except Exception:
            with self._arrived:
                self.told.pop(request.request_id)
                if before is not None:
                    self.told[request.request_id] = before
            raise

    def wait_until(self, holds: Callable[[], bool]) -> None:
        with self._arrived:
            assert self._arrived.wait_for(holds, timeout=120), self.told

    def wait(self, *names: str) -> list[Told]:
        self.wait_until(lambda: all(self.told[name].has_ended for name in names))
        return [self.told[name] for name in names]

    def ask(self, request: GenerationRequest, mixture: Mixture = ()) -> Told:
        self.submit(request, mixture)
        return self.wait(request.request_id)[0]

    def lend(self, name: str) -> None:
        """Begin again for another user: ``name`` sets apart what was before from what comes."""
        self._namespaces = f"{name}:"
        self.told.clear()

    def take_back(self) -> None:
        """Check that a user has left nothing, and empty the slots."""
        self.on_chunk = None
        assert all(told.has_ended for told in self.told.values())
        self.engine.check_integrity()
        for slot in range(SLOTS):
            self.adapters.clear(slot)

    def finish(self) -> None:
        """Stop the engine, and check that nothing is left."""
        assert self.engine.stop(drain=False, timeout_s=120)
        self.engine.check_integrity()
        self.adapters.check_integrity()
        stats = self.engine.stats()
        assert (stats.running, stats.waiting) == (0, 0)
        assert stats.kv_blocks_free == stats.kv_blocks_total
        assert stats.counters.integrity_failures == 0
        assert all(told.has_ended for told in self.told.values())

    def _receive(self, chunks: list[GenerationChunk]) -> None:
        with self._arrived:
            for chunk in chunks:
                told = self.told[chunk.request_id]
                assert not told.has_ended, "a chunk after the last one"
                assert (chunk.usage is not None) == (chunk.finish_reason is not None)
                told.chunks.append(chunk)
                if self.on_chunk is not None:
                    self.on_chunk(chunk)
            self._arrived.notify_all()

    def _take_returned(
        self, request_id: RequestId, token_ids: tuple[int, ...], usage: Usage
    ) -> None:
        assert usage.completion_tokens == len(token_ids)
        with self._arrived:
            told = self.told[request_id]
            assert not told.has_ended, "handed back after the last chunk"
            told.returned = token_ids
            self._arrived.notify_all()


def mix(*terms: tuple[int, float]) -> Mixture:
    return tuple((Slot(slot), weight) for slot, weight in terms)


def prompt(length: int, salt: int = 0) -> list[int]:
    return [(7 * i * i + 3 * i + salt) % 97 for i in range(length)]
