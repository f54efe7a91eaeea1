"""Notes what a front's picks promise, for its reports to the controller."""

import statistics
from collections import deque
from collections.abc import Mapping

from cluster.placement.policy.tiers import tier_of

LAST_PICKS = 64
PICK_AGE_S = 30.0
"""A pick that is older says nothing about the next one."""


class RecentPicks:
    """Counts a front's picks, and keeps the predictions of the last ones; one owner."""

    def __init__(self) -> None:
        self.cold = 0  # sequences sent to a replica without their whole set
        self.picked = 0
        self._tiers: dict[str, str] = {}
        self._predicted: dict[str, deque[tuple[float, float]]] = {}  # (picked at, seconds)

    def follow(self, tiers: Mapping[str, str]) -> None:
        """Take over which tenants are of which tier."""
        self._tiers = dict(tiers)

    def note(self, tenant: str, *, whole: bool, predicted_ttft: float | None, now: float) -> None:
        """Count a sequence that is sent to a replica at ``now``, in monotonic seconds.

        Args:
            whole: all of its adapters are on the replica's device.
            predicted_ttft: seconds to its first token, or None if its pick predicts none.
        """
        self.picked += 1
        self.cold += not whole
        tier = tier_of(self._tiers, tenant)
        if predicted_ttft is not None and tier is not None:
            last = self._predicted.setdefault(tier, deque(maxlen=LAST_PICKS))
            last.append((now, predicted_ttft))

    def predicted_ttft(self, now: float) -> dict[str, float]:
        """Return the median prediction of recent picks, by tier, in seconds."""
        since = now - PICK_AGE_S
        for picks in self._predicted.values():
            while picks and picks[0][0] < since:
                picks.popleft()
        self._predicted = {tier: picks for tier, picks in self._predicted.items() if picks}
        return {
            tier: statistics.median([seconds for _, seconds in picks])
            for tier, picks in self._predicted.items()
        }
