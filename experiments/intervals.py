"""How sure a mean over seeds is."""

import math
import statistics
from collections.abc import Sequence

_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t, 97.5 %, for 1 to 9 degrees of freedom."""


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and the half width of its 95 % interval; None where there is one value only."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    t = _T_95[min(len(values) - 1, len(_T_95)) - 1]
    return mean, t * statistics.stdev(values) / math.sqrt(len(values))
