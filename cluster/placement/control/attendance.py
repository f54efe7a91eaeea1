"""Knows whether every replica that Serve counts has been heard of."""

PATIENCE_S = 30.0
"""A replica that Serve counts and that says nothing for so long is waited for no more."""


class Attendance:
    """Tracks a gap between those counted and those heard; one owner. Monotonic seconds."""

    def __init__(self) -> None:
        self._gap_since: float | None = None
        self.opened = False
        """The first roll call is over: from here on adapters may be moved."""

    def call(self, heard: int, *, running: int, starting: int, now: float) -> bool:
        """Compare the numbers; returns whether all are there, or the missing ones are given up."""
        if heard >= running + starting:
            self._gap_since = None
        elif self._gap_since is None:
            self._gap_since = now
        patient = self._gap_since is not None and now - self._gap_since < PATIENCE_S
        if heard >= max(1, running) or not patient:
            self.opened = True
        return not patient
