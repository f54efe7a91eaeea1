"""The slots of an engine host: PEFT folders into vLLM, under names that are never used twice."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.adapters.loader import load_adapter
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AdapterConfig
from cluster.domain.adapter import AdapterManifest, BaseCheck
from cluster.domain.ids import AdapterDigest, Slot
from cluster.engine.hosted.adapter_files import AdapterFiles, FiledAdapter
from cluster.engine.hosted.host_calls import HostCalls
from cluster.engine.hosted.messages import LoadAdapter, UnloadAdapter
from cluster.engine.port import LoadableAdapter
from cluster.errors import AdapterLoadFailed, AdapterUnsupported, EngineError, IntegrityError

_DIGEST_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class FilledSlot:
    """Describes what a slot holds."""

    name: str  # that the host knows it by
    manifest: AdapterManifest
    nbytes: int


class HostedSlots:
    """Implements `cluster.engine.port.AdapterSlots` over an engine host.

    Args:
        calls: to the host.
        files: of the adapters in host memory.
        config: limits of the adapters that it takes.
        rank: largest one that the host's slots have room for.
        shapes: module path -> (d_out, d_in) of the base.
        item_bytes: of one value in a slot.
    """

    def __init__(
        self,
        calls: HostCalls,
        files: AdapterFiles,
        config: AdapterConfig,
        *,
        rank: int,
        shapes: Mapping[str, tuple[int, int]],
        item_bytes: int,
    ) -> None:
        self._calls = calls
        self._files = files
        self._config = config
        self._limits = with_rank(config, rank)
        self._shapes = shapes
        self._item_bytes = item_bytes
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._filled: dict[int, FilledSlot] = {}

    def required_nbytes(self, ranks: Mapping[str, int]) -> int:
        """Return the bytes of an adapter, as in `AdapterSlots`; a slot has room for larger ones."""
        unknown = [module for module in ranks if module not in self._shapes]
        if unknown:
            raise ValueError(f"the base has no module {unknown[0]}")
        return sum(rank * sum(self._shapes[m]) for m, rank in ranks.items()) * self._item_bytes

    def read_adapter(
        self,
        folder: Path,
        base: BaseShapes,
        *,
        digest: AdapterDigest | None = None,
        base_check: BaseCheck | None = None,
        links_below: Path | None = None,
    ) -> FiledAdapter:
        """Read an adapter as in `AdapterSlots`, and write it as the host reads it.

        Raises:
            AdapterUnsupported: an activated LoRA.
        """
        loaded = load_adapter(
            folder, base, self._limits, digest, base_check=base_check, links_below=links_below
        )
        if loaded.manifest.invocation_tokens:
            raise AdapterUnsupported(
                f"{folder}: an activated LoRA (alora_invocation_tokens) applies from a place in "
                "the prompt on, which engine.kind 'vllm' does not compute; use kind 'braid'"
            )
        return self._files.write(loaded.manifest, loaded.tensors)

    def place(self, slot: int, adapter: LoadableAdapter) -> None:
        """Load an adapter into a slot, as in `AdapterSlots`.

        Raises:
            TypeError: another engine read the adapter.
            AdapterLoadFailed: the host refused it; the slot is empty then.
        """
        if not isinstance(adapter, FiledAdapter):
            raise TypeError(
                f"slot {slot} is given a {type(adapter).__name__}, expected FiledAdapter"
            )
        self.clear(slot)
        digest = adapter.manifest.digest[:_DIGEST_CHARACTERS]
        name = f"{slot}@{digest}#{next(self._numbers)}"
        answer = self._calls.ask(lambda call: LoadAdapter(call, name, str(adapter.folder)))
        if answer.problem:
            raise AdapterLoadFailed(f"vLLM does not take the adapter: {answer.problem}")
        with self._lock:
            self._filled[slot] = FilledSlot(name, adapter.manifest, adapter.nbytes)

    def clear(self, slot: int) -> None:
        """Empty a slot, as in `AdapterSlots`. The host does so before it is sent anything else."""
        self._check(slot)
        with self._lock:
            held = self._filled.pop(slot, None)
        if held is not None:
            self._calls.tell(lambda call: UnloadAdapter(call, held.name))

    def nbytes(self, slot: int) -> int:
        """Return the bytes of a slot's content, as in `AdapterSlots`."""
        return self.size(Slot(slot))[0]

    def size(self, slot: Slot) -> tuple[int, int]:
        """Return the bytes and the largest rank of a slot's adapter; zeros if it is empty."""
        with self._lock:
            held = self._filled.get(slot)
        return (0, 0) if held is None else (held.nbytes, held.manifest.max_rank)

    def named(self, adapters: tuple[tuple[Slot, float], ...]) -> tuple[tuple[str, float], ...]:
        """Return a mixture by the names that the host knows.

        Raises:
            EngineError: a slot is empty, or a weight is not finite.
        """
        found = []
        for slot, weight in adapters:
            if not math.isfinite(weight):
                raise EngineError(f"adapter weight {weight} is not finite")
            with self._lock:
                held = self._filled.get(slot)
            if held is None:
                raise EngineError(f"slot {slot} is empty")
            found.append((held.name, weight))
        return tuple(found)

    def check_integrity(self) -> None:
        """Check the books of the slots, as in `AdapterSlots`."""
        with self._lock:
            names = {held.name for held in self._filled.values()}
            if len(names) != len(self._filled):
                raise IntegrityError(
                    f"{len(self._filled)} slots are filled, with {len(names)} names"
                )

    def _check(self, slot: int) -> None:
        if not 0 <= slot < self._config.slots:
            raise ValueError(f"slot {slot} is out of range, there are {self._config.slots}")


def with_rank(config: AdapterConfig, rank: int) -> AdapterConfig:
    """Return the same limits with the rank of the slots, if that is smaller."""
    return config.model_copy(update={"max_rank": min(config.max_rank, rank)})
