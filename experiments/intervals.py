"""Confidence in a mean over seeds and in a difference."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t, 97.5 %, for 1 to 9 degrees of freedom."""


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Compute the mean and the half width of its 95 % interval; None if there is one value only."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    t = _T_95[min(len(values) - 1, len(_T_95)) - 1]
    return mean, t * statistics.stdev(values) / math.sqrt(len(values))


def difference_interval(
    ours: Sequence[Sequence[int]],
    theirs: Sequence[Sequence[int]],
    *,
    resamples: int = 4000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Compute the mean difference of two scores and its 95 % interval, seeds and prompts drawn
    again.

    Args:
        ours, theirs: scores by seed and prompt, [S][N], paired in both.
        resamples: draws of the bootstrap.
        seed: of the draws.
    """
    difference = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    seeds, prompts = difference.shape
    rng = np.random.default_rng(seed)
    means = [
        difference[
            np.ix_(rng.integers(seeds, size=seeds), rng.integers(prompts, size=prompts))
        ].mean()
        for _ in range(resamples)
    ]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(difference.mean()), float(low), float(high)
