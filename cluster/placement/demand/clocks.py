"""Two clocks of one rate: what a fast and a slow average say together."""

import math

FAST_HALF_LIFE_S = 15.0
SLOW_HALF_LIFE_S = 240.0
FAST = math.log(2.0) / FAST_HALF_LIFE_S
"""Decay per second of the fast clock, and the rate that one request makes on it."""
SLOW = math.log(2.0) / SLOW_HALF_LIFE_S


def up_rate(fast: float, slow: float, events: float | None = None) -> float:
    """Return what must be served: the slow rate, or a rise that is no accident.

    ``events`` is how many requests are behind the fast clock; by default its rate says so.
    """
    seen = fast / FAST if events is None else events
    sure = max(0.0, 1.0 - 1.0 / math.sqrt(seen)) if seen > 0.0 else 0.0
    return max(slow, fast * sure)


def down_rate(fast: float, slow: float) -> float:
    """Return what must be gone from both clocks before anything is taken away."""
    return max(fast, slow)


def hold_rate(fast: float, slow: float) -> float:
    """Return what both clocks agree on, the fast one with a request to spare."""
    return min(slow, fast + FAST)
