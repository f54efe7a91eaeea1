"""Bounds the bytes that plans move within any minute."""

from collections import deque

from cluster.placement.planning.plan import ChurnLeft
from cluster.placement.planning.rules import URGENT

WINDOW_S = 60.0


class ChurnBudget:
    """Remembers what was moved within the last minute; one owner. Monotonic seconds."""

    def __init__(self) -> None:
        self._moved: deque[tuple[float, int]] = deque()

    def left(self, limit: int, pool: int, now: float) -> ChurnLeft:
        """Return what may be moved now if a minute may move ``limit`` bytes.

        Promises may move ``URGENT`` times that, or the content of one ``pool`` if this is more:
        what a replica had that died comes back at once.
        """
        while self._moved and now - self._moved[0][0] >= WINDOW_S:
            self._moved.popleft()
        moved = sum(nbytes for _, nbytes in self._moved)
        return ChurnLeft(
            max(0, limit - moved), max(0, max(URGENT * limit, pool) - moved), not self._moved
        )

    def spend(self, nbytes: int, now: float) -> None:
        """Take note of a move."""
        self._moved.append((now, nbytes))
