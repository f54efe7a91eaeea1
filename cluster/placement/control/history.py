"""The controller's last changes, and the reason of each."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

from cluster.domain.ids import AdapterDigest

MOVES, COUNTS, FLEET, CONTROL = "moves", "counts", "fleet", "control"
TOPICS = {
    "copies": MOVES,
    "prefetch": MOVES,
    "would_prefetch": MOVES,  # planned where plans are not sent
    "release": MOVES,
    "evicted": MOVES,
    "failed": MOVES,
    "replicas": COUNTS,
    "draining": COUNTS,
    "replica_joined": FLEET,
    "replica_suspect": FLEET,
    "replica_back": FLEET,
    "replica_lost": FLEET,
    "epoch": CONTROL,
}
"""The topic of each kind. Each topic has room of its own: moves, which are many, never push out a
change of the count."""


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the history."""

    at: float  # wall clock, seconds; for people alone
    kind: str  # of ``TOPICS``
    message: str
    replica_id: str = ""
    digest: str = ""
    adapter: str = ""  # alias

    @property
    def topic(self) -> str:
        """Return the topic that the line is kept under."""
        return TOPICS[self.kind]


@dataclass(frozen=True, slots=True)
class _Unstamped:
    now: float
    kind: str
    message: str
    replica_id: str
    digest: str


class History:
    """The last changes of each topic; one owner.

    Lines are recorded by monotonic seconds and get their wall time when ``stamp`` is called, so
    that nothing but their text depends on the wall clock.
    """

    def __init__(self, limit: int) -> None:
        self._topics: dict[str, deque[Change]] = {
            topic: deque(maxlen=limit) for topic in dict.fromkeys(TOPICS.values())
        }
        self._limit = limit
        self._unstamped: deque[_Unstamped] = deque(maxlen=limit * len(self._topics))
        self.aliases: Mapping[AdapterDigest, str] = {}

    def alias(self, digest: str) -> str:
        """Return the adapter's name for people, empty if the catalog has none."""
        return self.aliases.get(AdapterDigest(digest), "")

    def record(
        self, now: float, kind: str, message: str, replica_id: str = "", digest: str = ""
    ) -> None:
        """Add a line of a kind of ``TOPICS``; the oldest of its topic is dropped for it."""
        self._unstamped.append(_Unstamped(now, kind, message, replica_id, digest))

    def stamp(self, now: float, wall: datetime) -> tuple[Change, ...]:
        """Give every new line its wall time, and return these lines."""
        at = wall.timestamp()
        lines = tuple(
            Change(
                round(at - (now - line.now), 3),
                line.kind,
                line.message,
                line.replica_id,
                line.digest,
                self.alias(line.digest),
            )
            for line in self._unstamped
        )
        self._unstamped.clear()
        for line in lines:
            self._topics[line.topic].append(line)
        return lines

    def restore(self, changes: Iterable[Change]) -> None:
        """Put lines that an earlier life has stamped, oldest first, before those of this life."""
        for change in reversed(tuple(changes)):
            kept = self._topics[change.topic]
            if len(kept) < self._limit:
                kept.appendleft(change)

    @property
    def changes(self) -> tuple[Change, ...]:
        """Return all stamped changes that are kept, by time."""
        kept = [change for topic in self._topics.values() for change in topic]
        return tuple(sorted(kept, key=attrgetter("at")))
