"""Slots and bytes of an adapter pool: who has which, and when it was last used."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.adapters.residency.eviction import weight_of
from cluster.adapters.residency.pool_types import Candidate
from cluster.clock import Clock
from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, Slot
from cluster.errors import IntegrityError


@dataclass(slots=True)
class Resident:
    """One version that holds a slot."""

    candidate: Candidate
    slot: Slot
    state: AdapterState
    nbytes: int
    leases: int = 0
    uses: int = 0
    priority: int = 0
    last_use: int = 0
    last_used: float = 0.0


class SlotBooks:
    """The arithmetic of ``AdapterPool``, which alone writes here."""

    def __init__(self, slots: int, memory_bytes: int, clock: Clock) -> None:
        self.slots = slots
        self.memory_bytes = memory_bytes
        self._clock = clock
        self.free: list[int] = list(range(slots))
        self.bytes_used = 0
        self.residents: dict[AdapterDigest, Resident] = {}
        self._inflation = 0
        self._use_number = 0

    def reserve(self, candidate: Candidate) -> None:
        """Promise the lowest free slot and the candidate's bytes."""
        slot = Slot(heapq.heappop(self.free))
        self.bytes_used += candidate.nbytes
        resident = Resident(candidate, slot, AdapterState.ABSENT, candidate.nbytes)
        self.residents[candidate.digest] = resident
        self.touch(resident)

    def resize(self, digest: AdapterDigest, nbytes: int) -> None:
        """A version takes so many bytes after all."""
        self.bytes_used += nbytes - self.residents[digest].nbytes
        self.residents[digest].nbytes = nbytes

    def touch(self, resident: Resident) -> None:
        """It is used now."""
        self._use_number += 1
        resident.last_use = self._use_number
        resident.last_used = self._clock.wall()
        resident.priority = self._inflation + weight_of(resident.uses) * resident.nbytes

    def age(self, digest: AdapterDigest) -> None:
        """It is being evicted: what is used from now on counts for more than it did."""
        self._inflation = max(self._inflation, self.residents[digest].priority)

    def drop(self, digest: AdapterDigest) -> None:
        """Its slot and bytes are free."""
        resident = self.residents.pop(digest)
        self.bytes_used -= resident.nbytes
        heapq.heappush(self.free, resident.slot)

    def shortage_after_leaving(self, wanted: Sequence[Candidate]) -> tuple[int, int]:
        """As ``shortage``, once those that are leaving have left."""
        slots_short, bytes_short = self.shortage(wanted)
        leaving = [r.nbytes for r in self.residents.values() if r.state is AdapterState.EVICTING]
        return slots_short - len(leaving), bytes_short - sum(leaving)

    def shortage(self, wanted: Sequence[Candidate]) -> tuple[int, int]:
        """Slots and bytes missing for those of ``wanted`` that hold none or are leaving."""
        new = {
            c.digest: c.nbytes
            for c in wanted
            if c.digest not in self.residents
            or self.residents[c.digest].state is AdapterState.EVICTING
        }
        room = self.memory_bytes - self.bytes_used
        return len(new) - len(self.free), sum(new.values()) - room

    def check_integrity(self) -> None:
        """Verify that slots and bytes add up.

        Raises:
            IntegrityError: with both numbers.
        """
        slots = sorted([*self.free, *(r.slot for r in self.residents.values())])
        expect("slots, free and held", slots, list(range(self.slots)))
        expect("bytes", sum(r.nbytes for r in self.residents.values()), self.bytes_used)
        if self.bytes_used > self.memory_bytes:
            raise IntegrityError(
                f"adapter pool: {self.bytes_used} bytes used of {self.memory_bytes}"
            )


def expect(what: str, found: object, expected: object) -> None:
    """Raise IntegrityError, with both, unless they agree."""
    if found != expected:
        raise IntegrityError(f"adapter pool: {what}: found {found}, expected {expected}")
