"""Lengths of prompts and answers, in tokens."""

import bisect
import math
from dataclasses import dataclass
from random import Random
from typing import Protocol


class Lengths(Protocol):
    """Draws lengths."""

    def draw(self, rng: Random) -> int:
        """Return a number of tokens, at least 1."""
        ...


@dataclass(frozen=True)
class FixedLength:
    """Always the same length."""

    tokens: int

    def draw(self, rng: Random) -> int:
        """Return it."""
        del rng
        return self.tokens


@dataclass(frozen=True)
class LogNormalLength:
    """``median * exp(sigma * z)`` with z normal, rounded, and cut to ``least`` .. ``most``."""

    median: float
    sigma: float
    least: int = 1
    most: int = 1_000_000

    def draw(self, rng: Random) -> int:
        """Return a length."""
        drawn = self.median * math.exp(self.sigma * rng.gauss(0, 1))
        return max(self.least, min(self.most, round(drawn)))


@dataclass(frozen=True)
class QuantileLength:
    """Lengths with given quantiles; between two of them the logarithm grows evenly.

    Attributes:
        points: (share, tokens), both rising, from share 0 to share 1; tokens at least 1.
    """

    points: tuple[tuple[float, int], ...]

    def __post_init__(self) -> None:
        shares = [share for share, _ in self.points]
        tokens = [count for _, count in self.points]
        if len(shares) < 2 or shares[0] != 0 or shares[-1] != 1 or tokens[0] < 1:
            raise ValueError("points: expected shares from 0 to 1, of at least 1 token")
        if sorted(shares) != shares or len(set(shares)) != len(shares) or sorted(tokens) != tokens:
            raise ValueError("points: expected rising shares and tokens")

    def draw(self, rng: Random) -> int:
        """Return a length."""
        share = rng.random()
        upper = bisect.bisect_right(self.points, share, key=lambda point: point[0])
        (low, fewer), (high, more) = self.points[upper - 1], self.points[upper]
        part = (share - low) / (high - low)
        return max(1, round(math.exp(math.log(fewer) * (1 - part) + math.log(more) * part)))
