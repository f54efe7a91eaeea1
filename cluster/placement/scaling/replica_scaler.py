"""The replica count over time: the autoscaler with its smoothed load and its state."""

import math
from collections.abc import Mapping
from typing import Any

from cluster.placement.policy import ReplicasPolicy
from cluster.placement.scaling.autoscaler import AutoscalerState, autoscale


class ReplicaScaler:
    """Remembers the count asked for; one owner, fed once per tick."""

    def __init__(self) -> None:
        self.count: int | None = None  # None until the first tick
        self._state = AutoscalerState()
        self._average: float | None = None
        self._averaged_at = 0.0

    def observe(
        self, policy: ReplicasPolicy, *, load: int, replicas: int, now: float
    ) -> tuple[int, str]:
        """Return the count to have and the reason.

        ``load`` is the number of running and queued requests now, of all ``replicas`` that
        reported. Where none did nothing is known, and the count stays.
        """
        if self.count is None:
            self.count = min(max(replicas, policy.min, 1), policy.max)
        if replicas == 0:
            return self.count, f"{self.count}: no replica has reported"
        smoothed = float(load)
        if self._average is not None:
            kept = math.exp(-max(0.0, now - self._averaged_at) / policy.window_s)
            smoothed = kept * self._average + (1.0 - kept) * load
        self._average, self._averaged_at = smoothed, now
        decision = autoscale(policy, load=smoothed, current=self.count, state=self._state, now=now)
        self.count, self._state = decision.count, decision.state
        return decision.count, decision.reason

    def to_state(self) -> dict[str, Any]:
        """Return its state, JSON-able; ``from_state`` is the inverse."""
        return {
            "count": self.count,
            "pending": self._state.to_state(),
            "average": self._average,
            "averaged_at": self._averaged_at,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "ReplicaScaler":
        """Return the scaler that ``to_state`` described."""
        scaler = cls()
        scaler.count = state["count"]
        scaler._state = AutoscalerState(**state["pending"])
        scaler._average = state["average"]
        scaler._averaged_at = state["averaged_at"]
        return scaler
