"""Averages how long things stay before they make room."""

WEIGHT = 0.05  # of the newest age


class MeanAge:
    """A moving average of ages in seconds; 0 before the first."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._known = False

    def observe(self, age_s: float, times: int = 1) -> None:
        """Take in the age of one thing or of several; a negative one counts as 0."""
        age_s = max(age_s, 0.0)
        for _ in range(times):
            self.seconds += (age_s - self.seconds) * (WEIGHT if self._known else 1.0)
            self._known = True
