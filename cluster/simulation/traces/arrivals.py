"""Arrival times: a rate over time, and how evenly requests follow it.

With L(t) the integral of the rate from 0 to t, the n-th request comes where L reaches the sum of n
gaps of mean 1. Gaps are drawn from a Gamma distribution of shape 1/cv^2: cv 1 is a Poisson process,
cv 0 a metronome, above 1 a bursty one. A rate is a row of pieces, each constant, so L is exact.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Protocol

Piece = tuple[float, float]
"""When a piece ends, in seconds, and its requests per second."""

PIECES = 288
"""A period of a smooth rate is cut into so many, each with the rate at its middle."""

LEAST_CV, MOST_CV = 0.001, 20.0
"""Below the one, gaps are even; above the other, almost all requests would come at once."""


class ArrivalRate(Protocol):
    """Requests per second over time."""

    def pieces(self, rng: Random, duration_s: float) -> Iterator[Piece]:
        """Yield pieces in order; the last one ends at ``duration_s`` or later."""
        ...


@dataclass(frozen=True)
class ConstantRate:
    """The same rate all the time."""

    rate: float

    def pieces(self, rng: Random, duration_s: float) -> Iterator[Piece]:
        """Yield one piece."""
        del rng
        yield duration_s, self.rate


@dataclass(frozen=True)
class SquareWave:
    """``low`` for half a period, ``high`` for the other half, and so on."""

    low: float
    high: float
    period_s: float

    def pieces(self, rng: Random, duration_s: float) -> Iterator[Piece]:
        """Yield halves of periods."""
        del rng
        half, end, number = self.period_s / 2, 0.0, 0
        while end < duration_s:
            number += 1
            end = number * half
            yield end, self.high if number % 2 == 0 else self.low


@dataclass(frozen=True)
class Diurnal:
    """``mean * (1 - depth * cos(2 pi t / period))``: lowest at the beginning."""

    mean: float
    depth: float = 0.8  # 0 to 1
    period_s: float = 86400.0

    def pieces(self, rng: Random, duration_s: float) -> Iterator[Piece]:
        """Yield short pieces."""
        del rng
        yield from _sampled(
            lambda t: self.mean * (1 - self.depth * math.cos(2 * math.pi * t / self.period_s)),
            self.period_s / PIECES,
            duration_s,
        )


@dataclass(frozen=True)
class FlashCrowd:
    """``base``; from ``at_s`` on ``base * (1 + (peak - 1) * exp(-(t - at) / decay))``."""

    base: float
    peak: float  # times the base
    at_s: float
    decay_s: float

    def pieces(self, rng: Random, duration_s: float) -> Iterator[Piece]:
        """Yield one piece before the crowd, then short ones."""
        del rng
        yield min(self.at_s, duration_s), self.base
        if self.at_s >= duration_s:
            return
        yield from (
            (self.at_s + end, rate)
            for end, rate in _sampled(
                lambda t: self.base * (1 + (self.peak - 1) * math.exp(-t / self.decay_s)),
                self.decay_s / 20,
                duration_s - self.at_s,
            )
        )


@dataclass(frozen=True)
class MarkovRate:
    """A Markov chain's rate: each state lasts an exponential time, then another one follows.

    With cv 1 this is a Markov-modulated Poisson process (MMPP).
    """

    rates: tuple[float, ...]  # of the states; the next is drawn evenly from the others
    stays_s: tuple[float, ...]  # mean times in them

    def pieces(self, rng: Random, duration_s: float) -> Iterator[Piece]:
        """Yield one piece for each stay; the first state is drawn by its share of the time."""
        states = range(len(self.rates))
        state = rng.choices(states, self.stays_s)[0]
        end = 0.0
        while end < duration_s:
            end += rng.expovariate(1 / self.stays_s[state])
            yield end, self.rates[state]
            others = [other for other in states if other != state]
            state = rng.choice(others) if others else state


def arrival_times(
    rate: ArrivalRate, rng: Random, duration_s: float, cv: float = 1.0
) -> Iterator[float]:
    """Yield the times of all arrivals before ``duration_s``.

    Args:
        rate: requests per second over time.
        rng: draws the gaps.
        duration_s: seconds.
        cv: standard deviation over mean of the gaps, measured on the integral of the rate.

    Raises:
        ValueError: ``cv`` is out of range.
    """
    if not 0 <= cv <= MOST_CV:
        raise ValueError(f"cv: expected 0 to {MOST_CV:g}, found {cv}")
    gap = _gaps(rng, cv)
    begin, passed, wanted = 0.0, 0.0, gap()  # passed: the integral at ``begin``
    for end, level in rate.pieces(rng, duration_s):
        last = min(end, duration_s)
        until = passed + level * (last - begin)
        while wanted < until:
            yield min(last, begin + (wanted - passed) / level)
            wanted += gap()
        begin, passed = last, until
        if begin >= duration_s:
            return


def _gaps(rng: Random, cv: float) -> Callable[[], float]:
    """Return a function that draws gaps of mean 1."""
    if cv < LEAST_CV:
        return lambda: 1.0
    if cv == 1:
        return lambda: rng.expovariate(1.0)
    shape = 1 / cv**2
    return lambda: rng.gammavariate(shape, 1 / shape)


def _sampled(curve: Callable[[float], float], step_s: float, duration_s: float) -> Iterator[Piece]:
    for number in range(math.ceil(duration_s / step_s)):
        yield (number + 1) * step_s, curve((number + 0.5) * step_s)
