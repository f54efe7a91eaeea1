"""Popularities of ranked things: the probability of each rank, the most popular first."""

import bisect
import itertools
from collections.abc import Sequence
from random import Random


class Popularity:
    """Draws ranks with given probabilities.

    Args:
        weights: of the ranks, in any unit; at least one must be above 0.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        if not weights or min(weights) < 0 or not sum(weights) > 0:
            raise ValueError("weights: expected numbers of at least 0, not all 0")
        total = sum(weights)
        self.probabilities = tuple(weight / total for weight in weights)
        self._until = list(itertools.accumulate(self.probabilities))

    def __len__(self) -> int:
        return len(self.probabilities)

    def draw(self, rng: Random) -> int:
        """Return a rank, from 0."""
        return min(bisect.bisect_right(self._until, rng.random()), len(self._until) - 1)


def uniform(n: int) -> Popularity:
    """Return the popularity in which all ranks are alike."""
    return Popularity([1.0] * n)


def zipf(n: int, s: float) -> Popularity:
    """Return Zipf's: rank r = 1..n has a probability in proportion to ``r ** -s``."""
    return Popularity([rank**-s for rank in range(1, n + 1)])


def power_law(n: int, alpha: float) -> Popularity:
    """Return the popularity of ranks that are drawn as ``floor(n * u ** (1 / alpha))``, u uniform.

    Rank i = 0..n-1 has the probability ``((i + 1) / n) ** alpha - (i / n) ** alpha``. This is not
    Zipf's: alpha 1 is uniform, and the nearer it is to 0, the more go to the first ranks.
    """
    if alpha <= 0:
        raise ValueError(f"alpha: expected above 0, found {alpha}")
    edges = [(rank / n) ** alpha for rank in range(n + 1)]
    return Popularity([after - before for before, after in itertools.pairwise(edges)])
