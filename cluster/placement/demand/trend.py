"""Holt's damped trend of a load, in bins of equal length."""

import math
from collections.abc import Sequence

BIN_S = 10.0
LEVEL, SLOPE, DAMPING = 0.3, 0.3, 0.9
"""Shares of an error that the level takes, and of that the slope; share of it that a bin keeps."""
WARM_BINS = 30
"""Bins before anything is said."""
_MEMORY_BINS = 90.0
"""Time constant of the spread."""
_ODD = 2.0
"""An error of more spreads counts as one of so many: a steep rise is more than an
accident."""


class DampedTrend:
    """One owner, fed once a bin.

    The spread of bins about what was expected of them grows as the load does, like that of numbers
    of requests: it is kept as a share of the load.
    """

    def __init__(self, figures: Sequence[float] = (0.0, 0.0, 0.0, 0.0, 0.0)) -> None:
        """Continue from the figures of another one."""
        self._level, self._slope, self._errors, self._loads, self._bins = figures

    def figures(self) -> list[float]:
        """Return all that another one needs to continue."""
        return [self._level, self._slope, self._errors, self._loads, self._bins]

    def observe(self, load: float) -> None:
        """Take in the mean load of the next bin."""
        self._bins += 1
        if self._bins == 1:
            self._level, self._loads = load, load
            return
        slope = DAMPING * self._slope
        error = load - self._level - slope
        newest = max(1.0 / self._bins, 1.0 / _MEMORY_BINS)
        odd = _ODD * self.spread if self.warm else math.inf
        self._errors += newest * (min(abs(error), odd) ** 2 - self._errors)
        self._loads += newest * (load - self._loads)
        self._level += slope + LEVEL * error
        self._slope = slope + LEVEL * SLOPE * error

    @property
    def warm(self) -> bool:
        """Return whether enough was seen."""
        return self._bins >= WARM_BINS

    def ahead(self, seconds: float) -> float:
        """Return the load that is expected so long after the end of the last bin."""
        return max(0.0, self._level + _damped(seconds) * self._slope)

    def accident(self, seconds: float) -> float:
        """Return the standard deviation of ``ahead`` where bins only differ by accident."""
        steps = _damped(seconds)
        level, both, slope = _STEADY
        return self.spread * math.sqrt(level + 2 * steps * both + steps * steps * slope)

    @property
    def spread(self) -> float:
        """Return the standard deviation of one bin, as far as it is an accident."""
        if self._loads <= 0.0:
            return 0.0
        return math.sqrt(max(0.0, self._level) * self._errors / self._loads)


def _damped(seconds: float) -> float:
    """Return how many bins of the present slope are passed, from the middle of the last bin."""
    bins = seconds / BIN_S + 0.5
    return DAMPING * (1.0 - math.pow(DAMPING, bins)) / (1.0 - DAMPING)


def _steady() -> tuple[float, float, float]:
    """Return variances of level and slope, and their covariance, where bins differ by 1."""
    level = both = slope = 0.0
    keeps = 1.0 - LEVEL
    for _ in range(1000):
        # level' = keeps (level + damping slope) + LEVEL noise, and the slope alike
        old = level, both, slope
        a, b = keeps, keeps * DAMPING
        c, d = -LEVEL * SLOPE, DAMPING * (1.0 - LEVEL * SLOPE)
        level = a * a * old[0] + 2 * a * b * old[1] + b * b * old[2] + LEVEL**2
        both = a * c * old[0] + (a * d + b * c) * old[1] + b * d * old[2] + LEVEL**2 * SLOPE
        slope = c * c * old[0] + 2 * c * d * old[1] + d * d * old[2] + (LEVEL * SLOPE) ** 2
    return level, both, slope


_STEADY = _steady()
