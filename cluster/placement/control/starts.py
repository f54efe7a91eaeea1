"""Measures how long replicas take to start, and how long one has been starting."""

from collections import deque


class Starts:
    """One owner. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._asked: deque[float] = deque()  # when each replica that has not come was asked for
        self._target: int | None = None
        self._since: float | None = None

    def observe(self, target: int, starting: int, now: float) -> None:
        """Take in Serve's counts."""
        if self._target is not None:
            for _ in range(target - self._target):
                self._asked.append(now)
            for _ in range(min(self._target - target, len(self._asked))):
                self._asked.pop()
        self._target = target
        if starting == 0:
            self._since = None
        elif self._since is None:
            self._since = now

    def joined(self, now: float) -> float | None:
        """Take in a replica's first word; returns how long its start took, where that is known."""
        return now - self._asked.popleft() if self._asked else None

    def left(self, usual_s: float, now: float) -> float:
        """Return how long until a replica is there, where a start takes ``usual_s``."""
        return max(0.0, usual_s - (self.age(now) or 0.0))

    def age(self, now: float) -> float | None:
        """Return how long the oldest start under way takes already, or None if none is."""
        if self._since is None:
            return None
        return now - max([self._since, *list(self._asked)[:1]])
