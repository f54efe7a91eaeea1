"""Counts slots for adapters the way mixtures take them: by members, not by requests.

vLLM counts each distinct adapter of a step's requests against ``max_loras``. A mixture takes no
slot, its members do, and adapters that were loaded to stay take theirs at all times. Nothing here
imports vLLM; a member is any value that tells adapters apart.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Protocol

Members = frozenset[Hashable]


class HasLora(Protocol):
    """A request of vLLM's scheduler."""

    @property
    def lora_request(self) -> Any:
        """Its adapter or mixture, if it has one."""


class SlotBudget:
    """Keeps which adapters stay in slots, and decides what else fits next to them."""

    def __init__(self, slots: int, members_of: Callable[[Any], Members]) -> None:
        self.slots = slots
        self._members_of = members_of
        self.resident: dict[str, int] = {}
        """By name, the number of the load that brought the adapter: never used twice."""
        self._loads = 0
        self._step: int | None = None
        self._counted = 0
        self._needed: Members = frozenset()

    def fits(self, members: Members) -> bool:
        """Tell whether a request that needs these could ever be served, alone."""
        return len(members | self.resident.keys()) <= self.slots

    def fits_now(self, step: int, running: Sequence[HasLora], members: Members) -> bool:
        """Tell whether these fit next to all that is running.

        Args:
            step: number of the scheduler's step. Within one, ``running`` only grows at its end, so
                what was counted before is not counted again.
        """
        if step != self._step or len(running) < self._counted:
            self._step, self._counted, self._needed = step, 0, frozenset(self.resident)
        grown = [self._members_of(request.lora_request) for request in running[self._counted :]]
        self._needed = self._needed.union(*grown)
        self._counted = len(running)
        return len(self._needed | members) <= self.slots

    def check_load(self, name: str, running: Iterable[Members], waiting: Iterable[Members]) -> None:
        """Pass if an adapter can be loaded to stay.

        Raises:
            ValueError: it is loaded already, or the slots are taken; the message says by what.
        """
        if name in self.resident:
            raise ValueError(f"adapter {name!r} is loaded already: unload it first")
        if len(self.resident) >= self.slots:
            raise ValueError(
                f"adapter {name!r} does not fit: all {self.slots} slots (max_loras) are taken by "
                f"{', '.join(map(repr, sorted(self.resident)))}; unload one first"
            )
        then = self.resident.keys() | {name}
        if len(then.union(*running)) > self.slots:
            raise ValueError(
                f"adapter {name!r} does not fit: running requests use the free slots of the "
                f"{self.slots} (max_loras); load it when they have ended"
            )
        if any(len(then | members) > self.slots for members in waiting):
            raise ValueError(
                f"adapter {name!r} does not fit: a waiting request needs more slots than it would "
                f"leave of the {self.slots} (max_loras)"
            )

    def note_load(self, name: str) -> None:
        """Count an adapter as loaded."""
        self._loads += 1
        self.resident = {**self.resident, name: self._loads}  # another thread may read the old one
        self._step = None

    def check_unload(self, name: str, live: Iterable[Members]) -> None:
        """Pass if an adapter can be unloaded.

        Raises:
            ValueError: it is not loaded, or requests that have not ended need it.
        """
        if name not in self.resident:
            raise ValueError(f"adapter {name!r} is not loaded")
        users = sum(name in members for members in live)
        if users:
            raise ValueError(
                f"adapter {name!r} is in use by {users} requests: unload it when they have ended"
            )

    def note_unload(self, name: str) -> None:
        """Count an adapter's slot as free."""
        self.resident = {known: load for known, load in self.resident.items() if known != name}
        self._step = None
