"""Quantiles, intervals over seeds, and evenness."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds with its interval by Student's t, of 95 % unless it was asked for more."""

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


def interval(values: Sequence[float], sure: float = 0.95) -> Interval:
    """Return the mean of one value a seed, with the interval that holds the truth so surely.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    mean = statistics.fmean(values)
    degrees = len(values) - 1
    if not degrees:
        return Interval(mean, None)
    t = _student_t(degrees, sure)
    return Interval(mean, t * statistics.stdev(values, mean) / math.sqrt(len(values)))


@cache
def _student_t(degrees: int, sure: float) -> float:
    """Return the t that bounds a share ``sure`` of Student's distribution on both sides."""
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _share_within(middle, degrees) < sure else (low, middle)
    return math.tan(low) * math.sqrt(degrees)


def _share_within(angle: float, degrees: int) -> float:
    """Return the share of Student's distribution below ``tan(angle) * sqrt(degrees)``, both sides.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    odd = degrees % 2
    term = total = math.cos(angle) if odd else 1.0
    for power in range(2 + odd, degrees - 1, 2):
        term *= (power - 1) / power * math.cos(angle) ** 2
        total += term
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if degrees > 1 else 0.0))


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
