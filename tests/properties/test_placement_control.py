"""Rendezvous order, and the books of a front's view."""

import dataclasses
import random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cluster.domain.adapter import ResidentAdapter
from cluster.domain.ids import AdapterDigest, ReplicaId, RequestId, TenantId
from cluster.domain.plan_version import NO_PLAN, PlanVersion
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.rendezvous import order


@given(st.text(max_size=20), st.sets(st.text(min_size=1, max_size=8), min_size=2, max_size=8))
@settings(max_examples=30, deadline=None)
def test_rendezvous_moves_only_what_a_lost_replica_had(key: str, names: set[str]) -> None:
    ids = [ReplicaId(name) for name in names]
    ranked = order(key, ids)
    assert sorted(ranked) == sorted(ids)
    for lost in ids:
        assert order(key, [i for i in ids if i != lost]) == tuple(r for r in ranked if r != lost)


def snapshot_of(
    replica_id: str,
    at: float,
    *,
    running: int = 0,
    resident: tuple[ResidentAdapter, ...] = (),
    desired: tuple[AdapterDigest, ...] = (),
    version: PlanVersion = NO_PLAN,
    slots: int = 3,
) -> ReplicaSnapshot:
    return ReplicaSnapshot(
        replica_id=ReplicaId(replica_id),
        address="",
        queued=0,
        running=running,
        kv_blocks_total=1,
        kv_blocks_free=1,
        slots_total=slots,
        adapter_bytes_limit=10 * slots,
        adapter_bytes_used=0,
        resident=resident,
        draining=False,
        desired=desired,
        desired_version=version,
    )


class ViewMachine(RuleBasedStateMachine):
    """The model: requests in a flat list, recounted from nothing at every look."""

    def __init__(self) -> None:
        super().__init__()
        self.view = ClusterView()
        self.now = 0.0
        self.heard: dict[str, tuple[int, float, int]] = {}  # sequence, time, running
        self.removed: dict[str, int] = {}
        self.sequence = 10
        self.sent: dict[str, tuple[str, float]] = {}

    @rule(replica=st.sampled_from("abc"), lag=st.integers(0, 3), running=st.integers(0, 5))
    def hear(self, replica: str, lag: int, running: int) -> None:
        self.now += 1
        self.sequence += 1
        sequence = self.sequence - lag
        wall = random.Random(self.sequence).uniform(-1e9, 1e9)
        said = snapshot_of(replica, wall, running=running)
        taken = self.view.update(dataclasses.replace(said, sequence=sequence), self.now)
        known = self.heard.get(replica)
        fresh = (known is None or sequence >= known[0]) and sequence > self.removed.get(replica, 0)
        assert taken == fresh
        if fresh:
            self.heard[replica] = (sequence, self.now, running)
            self.removed.pop(replica, None)

    @rule(replica=st.sampled_from("abc"), request=st.sampled_from("123456"))
    def send(self, replica: str, request: str) -> None:
        self.now += 1
        self.view.sent(
            RequestId(request), ReplicaId(replica), PickRequest((), TenantId("acme")), self.now
        )
        self.sent[request] = (replica, self.now)

    @rule(request=st.sampled_from("123456"))
    def finish(self, request: str) -> None:
        self.view.finished(RequestId(request))
        self.sent.pop(request, None)

    @rule(replica=st.sampled_from("abc"))
    def lose(self, replica: str) -> None:
        self.now += 1
        self.view.remove(ReplicaId(replica))
        known = self.heard.pop(replica, None)
        if known is not None:
            self.removed[replica] = known[0]
        self.sent = {k: v for k, v in self.sent.items() if v[0] != replica}

    @invariant()
    def loads_agree(self) -> None:
        self.view.check_integrity()
        expected = {
            replica: running + sum(1 for r, t in self.sent.values() if r == replica and t > at)
            for replica, (_, at, running) in self.heard.items()
        }
        assert {r.replica_id: r.load for r in self.view.replicas()} == expected


TestView = ViewMachine.TestCase
TestView.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
