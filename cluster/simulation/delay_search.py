"""Searches for the delays of a simulation that no counter of a cluster has."""

from collections.abc import Callable
from dataclasses import replace

from cluster.simulation.spec import Delays

FITTED = {"front_s": (1e-4, 0.25), "hop_s": (1e-5, 0.05), "publish_s": (0.005, 1.0)}
"""Fields of ``Delays`` with their least and greatest seconds, the one that explains most first.

A log that needs more than these is explained by other costs of steps and loads, not by delays.
"""
FACTORS = (4.0, 2.0, 1.4, 1.15)
"""A constant is multiplied and divided by each in turn, for as long as that helps."""
GAIN = 0.005
"""Of the loss; a smaller gain does not count."""


def search_delays(delays: Delays, loss: float, loss_of: Callable[[Delays], float]) -> Delays:
    """Change one constant after the other for as long as the loss falls; returns the best.

    Args:
        loss: of ``delays``.
        loss_of: runs a simulation and says how far it is from what was recorded.
    """
    for factor in FACTORS:
        for name in FITTED:
            for by in (factor, 1 / factor):
                tried = with_delay(delays, name, getattr(delays, name) * by)
                found = loss_of(tried)
                if found < loss * (1 - GAIN):
                    delays, loss = tried, found
                    break
    return delays


def with_delay(delays: Delays, name: str, seconds: float) -> Delays:
    """Return delays with another value of one that is fitted, within its bounds."""
    least, most = FITTED[name]
    return replace(delays, **{name: min(max(seconds, least), most)})
