"""Quantiles, intervals over seeds, and evenness."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t at 97.5 % for 1 to 30 degrees of freedom."""
_NORMAL_975 = 1.960


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds with its 95 % interval by Student's t."""

    mean: float
    half: float | None  # half of the interval's width; None: one seed tells nothing about it

    @property
    def low(self) -> float | None:
        """Return the lower end; None with one seed."""
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """Return the upper end; None with one seed."""
        return None if self.half is None else self.mean + self.half

    @property
    def excludes_zero(self) -> bool:
        """Report whether 0 lies outside; never with one seed."""
        return self.half is not None and abs(self.mean) > self.half


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of one value a seed, with its interval.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    mean = statistics.fmean(values)
    degrees = len(values) - 1
    if not degrees:
        return Interval(mean, None)
    t = _T_975[degrees - 1] if degrees <= len(_T_975) else _NORMAL_975
    return Interval(mean, t * statistics.stdev(values, mean) / math.sqrt(len(values)))


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest of the sorted values that at least ``share`` of all do not exceed.

    Raises:
        ValueError: there is no value.
    """
    if not ordered:
        raise ValueError("a quantile needs at least one value")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def jain_index(values: Sequence[float]) -> float:
    """Return Jain's index of fairness: 1 when all are equal, 1/n when one has everything.

    No values, or zeros alone, are fair: 1.
    """
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares > 0 else 1.0
