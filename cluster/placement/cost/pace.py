"""Compares how long a replica's steps take with what is predicted for them."""

import math
from collections.abc import Sequence

TIME_CONSTANT_S = 10.0
USUAL_S = 0.5
"""Seconds of steps as predicted that always count: a replica of which nothing is heard is taken for
a usual one again."""
SLOWEST = 4.0


class ReplicaPace:
    """A replica's work and seconds of late, forgotten with ``TIME_CONSTANT_S``."""

    def __init__(self, features: int) -> None:
        self.busy_s = 0.0
        self._work = [0.0] * features

    def note(self, x: Sequence[float], seconds: float, age_s: float) -> None:
        """Take in steps with features ``x``, noted ``age_s`` after the last ones."""
        kept = math.exp(-max(age_s, 0.0) / TIME_CONSTANT_S)
        self.busy_s = self.busy_s * kept + seconds
        self._work = [work * kept + value for work, value in zip(self._work, x, strict=True)]

    def slowness(self, coefficients: Sequence[float]) -> float:
        """Return measured over predicted seconds, within [1/4, 4]."""
        predicted = sum(c * value for c, value in zip(coefficients, self._work, strict=True))
        ratio = (self.busy_s + USUAL_S) / (predicted + USUAL_S)
        return min(max(ratio, 1.0 / SLOWEST), SLOWEST)
