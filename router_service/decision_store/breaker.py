"""Leaves a failing service alone for a while, then lets one caller try it."""

from enum import StrEnum

from cluster.clock import Clock


class BreakerState(StrEnum):
    """Says what a caller may do.

    CLOSED -> OPEN on a failure; OPEN -> HALF_OPEN for the first caller after ``reset_s``;
    HALF_OPEN -> CLOSED when that caller succeeds, -> OPEN when it fails or gives up.
    """

    CLOSED = "closed"  # everyone calls
    OPEN = "open"  # no caller calls
    HALF_OPEN = "half_open"  # one caller is trying


class CircuitBreaker:
    """Tracks one service as this process sees it, on one event loop."""

    def __init__(self, clock: Clock, reset_s: float) -> None:
        self._clock = clock
        self._reset_s = reset_s
        self._state = BreakerState.CLOSED
        self._opened_at = 0.0

    @property
    def state(self) -> BreakerState:
        return self._state

    def admit(self) -> bool:
        """Return whether the caller may call now; one admitted must report how it ended."""
        if self._state is BreakerState.CLOSED:
            return True
        if self._state is BreakerState.HALF_OPEN:
            return False
        if self._clock.monotonic() - self._opened_at < self._reset_s:
            return False
        self._state = BreakerState.HALF_OPEN
        return True

    def succeeded(self) -> None:
        """Note that the service answered."""
        self._state = BreakerState.CLOSED

    def failed(self) -> None:
        """Note that the service did not answer."""
        self._state = BreakerState.OPEN
        self._opened_at = self._clock.monotonic()

    def abandoned(self) -> None:
        """Note that the caller was cancelled before it knew: the next one may try at once."""
        if self._state is BreakerState.HALF_OPEN:
            self._state = BreakerState.OPEN
