"""Picks replicas with a scorer of its own: the nearest zone first.

python examples/own_scorer.py    # CONTRIBUTING.md: how to use it in a cluster
"""

from collections.abc import Sequence

from cluster.domain.ids import ReplicaId
from cluster.domain.replica import ReplicaChoice, ReplicaSnapshot
from cluster.placement.picking.cluster_view import ClusterView, ReplicaView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.picking.picker import Picker
from cluster.placement.picking.scorers import LoadScorer
from cluster.placement.policy import PickingPolicy, ScorerWeights


class ZoneScorer:
    """Gives replicas of one zone, known by the start of their address, the whole point."""

    name = "zone"

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def score(self, replicas: Sequence[ReplicaView], request: PickRequest) -> Sequence[float]:
        """Score each replica: 1 in the zone, 0 elsewhere."""
        del request
        return [float(one.snapshot.address.startswith(self._prefix)) for one in replicas]


class WeightsWithZone(ScorerWeights):
    """The policy's weights, and one for the new scorer."""

    zone: float = 1.0


def replica(name: str, address: str, running: int) -> ReplicaSnapshot:
    """Describe a replica as it would describe itself."""
    return ReplicaSnapshot(
        ReplicaId(name), address, queued=0, running=running, kv_blocks_total=96, kv_blocks_free=96,
        slots_total=8, adapter_bytes_limit=0, adapter_bytes_used=0, resident=(), loads=(),
        draining=False, observed_at=0.0,
    )  # fmt: skip


def main() -> ReplicaChoice:
    """Pick between a near busy replica and a far idle one."""
    view = ClusterView()
    view.update(replica("near", "10.1.0.7:9000", running=1), now=0.0)
    view.update(replica("far", "10.2.0.7:9000", running=0), now=0.0)
    policy = PickingPolicy(weights=WeightsWithZone(zone=2.0))
    picker = Picker(policy, scorers=[ZoneScorer("10.1."), LoadScorer()])
    choice = picker.pick(view, PickRequest(digests=()), now=0.0)
    print(choice.replica_id, ", ".join(f"{name} {value:.2f}" for name, value in choice.scores))
    return choice


if __name__ == "__main__":
    main()
