"""Measures how long replicas take to start, and how long one has been starting.

A start has two parts: until its process runs in a place that Ray has found for it, and from then on
until the replica's first word. The first part is short if there is room. If a node or resources are
waited for, it lasts as long as they do. So the shortest of the last ones stands for it in every
start: what took longer was waiting for room.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cluster.domain.ids import ReplicaId
from cluster.placement.control.drain import ServeReplica

KEPT = 10
"""Newest starts that are remembered."""


@dataclass(slots=True)
class _Start:
    """A replica that Serve lists and that has not been heard of."""

    asked_at: float
    measured: bool  # False: it was asked for before the first look
    placed_at: float | None = None  # when Serve first said where it runs

    def place(self, now: float) -> None:
        """Note that Serve says where it runs."""
        if self.placed_at is None:
            self.placed_at = now

    def parts(self, now: float) -> tuple[float, float]:
        """Return the seconds without a place, and since it has one."""
        placed_at = now if self.placed_at is None else self.placed_at
        return placed_at - self.asked_at, now - placed_at


class Starts:
    """One owner, fed once a tick. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._under_way: dict[ReplicaId, _Start] = {}
        self._ended: deque[tuple[float, float]] = deque(maxlen=KEPT)  # parts of each
        self._looked = False

    def observe(
        self, replicas: Iterable[ServeReplica], heard: Collection[ReplicaId], now: float
    ) -> None:
        """Take in Serve's list, and which of its replicas have been heard of."""
        awaited = {r.replica_id: r for r in replicas if r.replica_id not in heard}
        for replica_id in self._under_way.keys() - awaited.keys():
            del self._under_way[replica_id]  # it ended before it came
        for replica_id, replica in awaited.items():
            if replica_id not in self._under_way and not replica.running:
                self._under_way[replica_id] = _Start(now, self._looked)
            start = self._under_way.get(replica_id)
            if start is not None and replica.node:
                start.place(now)
        self._looked = True

    def join(self, replica_id: ReplicaId, now: float) -> bool:
        """Take in a replica's first word; returns whether its start was measured."""
        start = self._under_way.pop(replica_id, None)
        if start is None or not start.measured:
            return False
        self._ended.append(start.parts(now))
        return True

    @property
    def observed(self) -> tuple[float, ...]:
        """Return how long the last starts took, oldest first, without waiting for room."""
        return tuple(self._without_waiting(*parts) for parts in self._ended)

    def left(self, usual_s: float, now: float) -> float:
        """Return how long until a replica is there, where a start takes ``usual_s``.

        A replica that waits for room has its start before it.
        """
        gone = (self._without_waiting(*start.parts(now)) for start in self._under_way.values())
        return max(0.0, usual_s - max(gone, default=0.0))

    def age(self, now: float) -> float | None:
        """Return how long ago the oldest replica under way was asked for, or None if none is."""
        asked = [start.asked_at for start in self._under_way.values()]
        return now - min(asked) if asked else None

    def to_state(self) -> list[list[float]]:
        """Return both parts of the last starts, JSON-able."""
        return [list(parts) for parts in self._ended]

    def restore(self, state: object) -> None:
        """Take in what an earlier life's ``to_state`` said, as starts before those of this one."""
        earlier = state if isinstance(state, list) else []
        known = [(float(one[0]), float(one[1])) for one in earlier if _is_start(one)]
        self._ended = deque([*known, *self._ended], maxlen=KEPT)

    def _without_waiting(self, unplaced_s: float, placed_s: float) -> float:
        shortest = min((unplaced for unplaced, _ in self._ended), default=unplaced_s)
        return min(unplaced_s, shortest) + placed_s


def _is_start(parts: object) -> bool:
    if not isinstance(parts, list) or len(parts) != 2:
        return False
    return all(isinstance(part, int | float) and 0.0 <= part < math.inf for part in parts)
