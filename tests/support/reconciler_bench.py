"""Drives a reconciler tick by tick."""

from datetime import UTC, datetime

from cluster.domain.plan_version import PlanVersion
from cluster.placement.control.reconciler import Reconciler
from cluster.placement.control.serve_counts import ServeCounts
from cluster.placement.cost.model import CostModel
from cluster.placement.policy import AdapterRule, ClusterPolicy, PlacementPolicy, ReplicasPolicy

WALL = datetime(2030, 1, 1, tzinfo=UTC)
PIN_A = [AdapterRule(adapter="a", copies="all")]
ONE_A = [AdapterRule(adapter="a", copies=1)]


def policy_of(replicas: int = 2, pins=(), mode="on", **placement) -> ClusterPolicy:
    return ClusterPolicy(
        replicas=ReplicasPolicy(min=replicas, max=replicas),
        placement=PlacementPolicy(mode=mode, **placement),
        adapters=tuple(pins),
    )


class Bench:
    """A reconciler, and how many snapshots each replica has given."""

    def __init__(self, build, infos, policy, *, epoch: int = 1, **options) -> None:
        self.reconciler = Reconciler(epoch, CostModel(), **options)
        self.build, self.infos, self.policy = build, infos, policy
        self.sequences: dict[str, int] = {}

    def hear(self, at: float, replica: str = "r0", **snapshot) -> None:
        self.sequences[replica] = self.sequences.get(replica, 0) + 1
        said = self.build.snapshot(replica, sequence=self.sequences[replica], **snapshot)
        self.reconciler.hear_replica(said, at)

    def tick(self, at: float, *replicas: str, running: int | None = None, **snapshot):
        for replica in replicas:
            self.hear(at, replica, **snapshot)
        count = len(self.sequences) if running is None else running
        serve = ServeCounts(self.policy.replicas.min, count, 0)
        return self.reconciler.tick(self.infos, self.policy, serve, at, WALL)

    def fail(self, at: float, **failed: str) -> None:
        self.reconciler.acknowledge(
            "r0",
            PlanVersion(1, 1),
            failed={f"digest-{name}": message for name, message in failed.items()},
            policy=self.policy,
            now=at,
        )

    def kinds(self) -> list[str]:
        return [change.kind for change in self.reconciler.history]
