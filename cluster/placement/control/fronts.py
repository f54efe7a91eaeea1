"""The fronts' last reports, taken together."""

import math
import statistics
from dataclasses import dataclass

from cluster.domain.ids import TenantId
from cluster.placement.exchange import FrontId, FrontReport

LATELY_S = 5.0
FORGOTTEN_S = 60.0
COLD_HALF_LIFE_S = 60.0
_FEWEST_PICKS = 20.0
"""A share of fewer recent picks than these says nothing."""


@dataclass(slots=True)
class _Front:
    report: FrontReport
    heard_at: float


class Fronts:
    """One owner. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._fronts: dict[FrontId, _Front] = {}
        self._cold = self._picked = 0.0  # recent ones, fading
        self._faded_at: float | None = None

    def hear(self, report: FrontReport, now: float) -> bool:
        """Take in a report; False where it is not newer than the front's last one."""
        known = self._fronts.get(report.front)
        if known is not None:
            known.heard_at = now
            if report.sequence <= known.report.sequence:
                return False
            self._fade(now)
            self._cold += max(0, report.cold - known.report.cold)
            self._picked += max(0, report.picked - known.report.picked)
        self._fronts[report.front] = _Front(report, now)
        return True

    def acknowledged(self, front: FrontId) -> int:
        """Return the sequence of the front's newest report."""
        known = self._fronts.get(front)
        return known.report.sequence if known is not None else 0

    def forget_silent(self, now: float) -> None:
        """Release the memory of fronts that ended."""
        self._fronts = {
            front: known
            for front, known in self._fronts.items()
            if now - known.heard_at <= FORGOTTEN_S
        }

    def count(self, now: float) -> int:
        """Return how many fronts reported recently; at least 1, the one that asks."""
        return max(1, len(self._lately(now)))

    def held(self, now: float) -> int:
        """Return the requests that fronts hold because no replica can be reached."""
        return sum(report.held for report in self._lately(now))

    def predicted_ttft(self, now: float) -> dict[str, float]:
        """Return the median over fronts of the predicted time to the first token, by tier."""
        by_tier: dict[str, list[float]] = {}
        for report in self._lately(now):
            for tier, seconds in report.predicted_ttft.items():
                by_tier.setdefault(tier, []).append(seconds)
        return {tier: statistics.median(found) for tier, found in sorted(by_tier.items())}

    def cold_share(self, now: float) -> float | None:
        """Return the recent share of picks without the whole set, or None if they are too few."""
        self._fade(now)
        return self._cold / self._picked if self._picked >= _FEWEST_PICKS else None

    def own_weights(self) -> dict[TenantId, float]:
        """Return the weights that the tenants file names, as fronts have read it."""
        found: dict[TenantId, float] = {}
        for known in sorted(self._fronts.values(), key=lambda known: known.heard_at):
            found |= known.report.own_weights
        return found

    def forget_cold(self) -> None:
        """Forget the picks so far: the replicas that they found have changed."""
        self._cold = self._picked = 0.0

    def _lately(self, now: float) -> list[FrontReport]:
        return [f.report for f in self._fronts.values() if now - f.heard_at <= LATELY_S]

    def _fade(self, now: float) -> None:
        if self._faded_at is not None:
            kept = math.exp(-math.log(2.0) * max(0.0, now - self._faded_at) / COLD_HALF_LIFE_S)
            self._cold *= kept
            self._picked *= kept
        self._faded_at = now
