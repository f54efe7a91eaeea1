"""The view's books, and a controller that restarts."""

import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, ReplicaId, RequestId, TenantId
from cluster.domain.replica import AdapterLoad, ReplicaSnapshot
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.planning.reconciler import Reconciler
from cluster.placement.policy import ClusterPolicy, Pin, PlacementPolicy, ReplicasPolicy
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
    loads: tuple[AdapterLoad, ...] = (),
    desired: tuple[AdapterDigest, ...] = (),
    version: int = 0,
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
        loads=loads,
        draining=False,
        observed_at=at,
        desired=desired,
        desired_version=version,
    )


class ViewMachine(RuleBasedStateMachine):
    """The model: requests in a flat list, recounted from nothing at every look."""

    def __init__(self) -> None:
        super().__init__()
        self.view = ClusterView()
        self.now = 0.0
        self.heard: dict[str, tuple[float, int]] = {}
        self.removed: dict[str, float] = {}
        self.sent: dict[str, tuple[str, float]] = {}

    @rule(replica=st.sampled_from("abc"), lag=st.integers(0, 3), running=st.integers(0, 5))
    def hear(self, replica: str, lag: int, running: int) -> None:
        self.now += 1
        at = self.now - lag
        taken = self.view.update(snapshot_of(replica, at, running=running), self.now)
        known = self.heard.get(replica)
        fresh = (known is None or at >= known[0]) and at > self.removed.get(replica, -math.inf)
        assert taken == fresh
        if fresh:
            self.heard[replica] = (at, running)
            self.removed.pop(replica, None)

    @rule(replica=st.sampled_from("abc"), request=st.sampled_from("123456"))
    def send(self, replica: str, request: str) -> None:
        self.now += 1
        self.view.sent(RequestId(request), ReplicaId(replica), TenantId("acme"), [], self.now)
        self.sent[request] = (replica, self.now)

    @rule(request=st.sampled_from("123456"))
    def finish(self, request: str) -> None:
        self.view.finished(RequestId(request))
        self.sent.pop(request, None)

    @rule(replica=st.sampled_from("abc"))
    def lose(self, replica: str) -> None:
        self.now += 1
        self.view.remove(ReplicaId(replica), self.now)
        self.heard.pop(replica, None)
        self.removed[replica] = self.now
        self.sent = {k: v for k, v in self.sent.items() if v[0] != replica}

    @invariant()
    def loads_agree(self) -> None:
        self.view.check_integrity()
        expected = {
            replica: running + sum(1 for r, t in self.sent.values() if r == replica and t > at)
            for replica, (at, running) in self.heard.items()
        }
        assert {r.replica_id: r.load for r in self.view.replicas(self.now)} == expected


TestView = ViewMachine.TestCase
TestView.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)

NAMES = [AdapterDigest(name) for name in "abcde"]
CATALOG = [AdapterInfo(name, name, TenantId("t"), 10) for name in NAMES]


class ReconcilerMachine(RuleBasedStateMachine):
    """Replicas that follow, fail, vanish and load on their own; the controller may restart."""

    @initialize(pins=st.booleans(), budget=st.integers(1, 3))
    def start(self, pins: bool, budget: int) -> None:
        self.policy = ClusterPolicy(
            replicas=ReplicasPolicy(min=1, max=3),
            placement=PlacementPolicy(max_moves_per_tick=budget, lost_after_s=30.0),
            pins=(Pin(adapter="a", copies="all"),) if pins else (),
        )
        self.reconciler = Reconciler()
        self.now = 1000.0
        self.resident: dict[str, set[AdapterDigest]] = {"r0": set(), "r1": set()}
        self.told: dict[str, tuple[int, tuple[AdapterDigest, ...]]] = {}
        self.arrived: dict[tuple[str, AdapterDigest], int] = {}
        self.versions: dict[str, int] = {}
        self.born = 2

    def snapshots(self) -> list[ReplicaSnapshot]:
        return [
            snapshot_of(
                replica,
                self.now,
                resident=tuple(
                    ResidentAdapter(d, d, AdapterState.READY, 10, 8, 0) for d in sorted(resident)
                ),
                loads=tuple(
                    AdapterLoad(d, TenantId("t"), n, 0)
                    for (r, d), n in sorted(self.arrived.items())
                    if r == replica
                ),
                desired=self.told.get(replica, (0, ()))[1],
                version=self.told.get(replica, (0, ()))[0],
            )
            for replica, resident in sorted(self.resident.items())
        ]

    @rule(seconds=st.integers(1, 8), failing=st.sampled_from(["", "a", "b", "abcde"]))
    def tick(self, seconds: int, failing: str) -> None:
        self.now += seconds
        actions = self.reconciler.tick(self.snapshots(), CATALOG, self.policy, self.now)
        prefetches = sum(1 for move in actions.moves if move.kind.value == "prefetch")
        assert prefetches <= self.policy.placement.max_moves_per_tick
        for told in actions.replica_plans:
            replica = str(told.replica_id)
            assert told.version >= self.versions.get(replica, 0)
            assert len(set(told.desired)) == len(told.desired) <= 3
            self.versions[replica] = told.version
            before = self.resident[replica]
            loaded = {d for d in told.desired if d not in failing}
            evicted = {
                move.digest
                for move in actions.moves
                if move.replica_id == replica and move.kind.value == "evict"
            }
            kept = before - evicted
            room = 3 - len(loaded)
            self.resident[replica] = loaded | set(sorted(kept - loaded)[:room])
            self.told[replica] = (told.version, told.desired)
            self.reconciler.acknowledge(
                told.replica_id,
                told.version,
                loaded=loaded,
                failed={d: "no" for d in told.desired if d in failing and d not in before},
                evicted=before - self.resident[replica],
                policy=self.policy,
                now=self.now,
            )

    @rule(
        replica=st.sampled_from(["r0", "r1", "r2"]), d=st.sampled_from(NAMES), n=st.integers(1, 9)
    )
    def requests(self, replica: str, d: AdapterDigest, n: int) -> None:
        if replica not in self.resident:
            return
        self.arrived[replica, d] = self.arrived.get((replica, d), 0) + n
        resident = self.resident[replica]
        if d not in resident:
            if len(resident) == 3:
                resident.discard(max(resident))
            resident.add(d)

    @rule()
    def die(self) -> None:
        if len(self.resident) > 1:
            replica = max(self.resident)
            del self.resident[replica]
            self.now += self.policy.placement.lost_after_s + 1  # the next tick misses it

    @rule()
    def be_born(self) -> None:
        if len(self.resident) < 3:
            self.resident[f"r{self.born}"] = set()
            self.born += 1

    @rule()
    def restart(self) -> None:
        state = json.loads(json.dumps(self.reconciler.to_state()))
        self.reconciler = Reconciler.from_state(state)
        assert self.reconciler.to_state() == state

    @rule()
    def comes_to_rest(self) -> None:
        """Assert that the cluster soon is as the plan wants it, without failures and new load."""
        for _ in range(25):
            self.tick(8, "")
        desired = {r: set(d) for r, (_, d) in self.told.items() if r in self.resident}
        status = self.reconciler.status()
        assert status["failures"] == [] or status["failures"][0]["retry_at"] > self.now
        for replica, entry in status["replicas"].items():
            wanted = {item["digest"] for item in entry["desired"]}
            assert wanted == desired.get(replica, set())
            assert wanted <= self.resident[replica]


TestReconciler = ReconcilerMachine.TestCase
TestReconciler.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
