"""Time as an argument: every component that needs the time takes a ``Clock``."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two kinds of time, because intervals and dates must not be mixed."""

    def monotonic(self) -> float:
        """Return seconds that never go back, for intervals and deadlines within a process."""
        ...

    def wall(self) -> float:
        """Return seconds since the epoch, for what other processes read (expiry, reports)."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()
