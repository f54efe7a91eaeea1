"""The controller's last changes, and the reason of each."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cluster.domain.ids import AdapterDigest


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the history."""

    at: float  # wall clock, seconds
    kind: str
    """copies, prefetch, evict (planned), evicted (done), failed, replicas, replica_joined or
    replica_lost"""
    message: str
    replica_id: str = ""
    digest: str = ""
    adapter: str = ""  # alias


class History:
    """The last changes, newest last; one owner."""

    def __init__(self, limit: int) -> None:
        self._changes: deque[Change] = deque(maxlen=limit)
        self.aliases: Mapping[AdapterDigest, str] = {}

    def alias(self, digest: str) -> str:
        """Return the adapter's name for people, empty if the catalog has none."""
        return self.aliases.get(AdapterDigest(digest), "")

    def record(
        self, now: float, kind: str, message: str, replica_id: str = "", digest: str = ""
    ) -> None:
        """Add a line; the oldest one is dropped if there is no room."""
        self._changes.append(Change(now, kind, message, replica_id, digest, self.alias(digest)))

    @property
    def changes(self) -> tuple[Change, ...]:
        """Return all changes that are kept."""
        return tuple(self._changes)

    def to_state(self) -> list[dict[str, Any]]:
        """Return its state, JSON-able; ``restore`` is the inverse."""
        return [asdict(change) for change in self._changes]

    def restore(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Take in what ``to_state`` described."""
        self._changes.extend(Change(**entry) for entry in state)
