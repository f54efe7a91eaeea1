"""Keeps what a controller learns of costs: fitted steps and loads, and how long starts take."""

from collections.abc import Mapping
from typing import Any

from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.control.starts import Starts
from cluster.placement.cost.fit import CostFit, PriorSource
from cluster.placement.cost.model import CostModel


class LearnedCosts:
    """One owner. Times are monotonic seconds.

    Args:
        prior: the costs until enough was measured.
        source: where they are from.
    """

    def __init__(self, prior: CostModel, source: PriorSource) -> None:
        self.starts = Starts()
        self.fit = CostFit(prior, source)
        self.device = ""
        """The device of the replicas, as the newest of them said; empty before one has said it."""
        self._restored = False

    def hear(self, snapshot: ReplicaSnapshot, now: float, *, new: bool) -> None:
        """Take in what a replica says; ``new`` if it is its first word."""
        self.fit.observe(snapshot.replica_id, snapshot.work, now)
        if new:
            self.device = snapshot.device or self.device
        if new and self.starts.join(snapshot.replica_id, now):
            self.fit.replace_starts(self.starts.observed)

    def to_state(self) -> dict[str, Any]:
        """Return what a later life needs, JSON-able; replicas are not in it."""
        return {**self.fit.to_state(), "starts": self.starts.to_state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take in, once, what an earlier life's ``to_state`` said; what is broken is left out.

        What was learnt since then stays, as if no time had gone by between the two lives.
        """
        if self._restored or not state:
            return
        self._restored = True
        self.fit.restore(state)
        self.starts.restore(state.get("starts"))
        self.fit.replace_starts(self.starts.observed)
