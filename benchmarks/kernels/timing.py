"""Timing on a machine that others use too."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KernelTiming:
    """Milliseconds of repeated calls."""

    median: float
    best: float


def measure(
    call: Callable[[], object], *, clock: Callable[[], float], seconds: float, repeats: int
) -> KernelTiming:
    """Time a call until either bound is reached, after an untimed one.

    Args:
        call: the work.
        clock: seconds, monotonic.
        seconds: bound on the timed calls together; at least one is made.
        repeats: bound on their number.
    """
    call()
    taken: list[float] = []
    started = clock()
    while not taken or (len(taken) < repeats and clock() - started < seconds):
        begin = clock()
        call()
        taken.append((clock() - begin) * 1e3)
    return KernelTiming(statistics.median(taken), min(taken))
