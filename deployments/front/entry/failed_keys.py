"""Limits failed keys by client address: so many a minute are answered.

An address never locks out a valid key: it is asked only when a key has failed.
"""

from collections import OrderedDict

from cluster.tenancy.limits import refilled
from deployments.front.http.client_network import network_of

MAX_ADDRESSES = 10_000
BURST = 20
"""Failures in a row before an address has to wait."""


class FailedKeys:
    """Holds buckets of addresses; the least recently seen are dropped. Times are in seconds."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._burst = float(min(BURST, per_minute))
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # level, at

    def charge(self, address: str, now: float) -> bool:
        """Count a failure; returns False if the address has had too many."""
        key = network_of(address)
        level, at = self._buckets.pop(key, (self._burst, now))
        level = min(self._burst, refilled(level, (now - at) * 1000, self._per_minute))
        allowed = level >= 1
        self._buckets[key] = (level - 1 if allowed else level, max(at, now))
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        return allowed
