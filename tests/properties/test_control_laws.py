"""The controller's laws: what holds for any order, loss and repetition of what it hears."""

import random
from dataclasses import replace
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.domain.replica import ReplicaSnapshot
from cluster.placement.control.actions import Actions, ReplicaPlan
from cluster.placement.control.reconciler import Reconciler
from cluster.placement.exchange import FrontReport
from cluster.placement.policy import AdapterRule, ClusterPolicy, PlacementPolicy, ReplicasPolicy
from cluster.simulation.parts.controller_book import ControllerBook
from testing.control_cluster import ControlCluster

NAMES = "abcde"
SETS = 2 ** len(NAMES)


def policy_of(replicas: int = 3, *, mode: str = "on", pinned: str = "") -> ClusterPolicy:
    return ClusterPolicy(
        replicas=ReplicasPolicy(min=1, max=replicas),
        placement=PlacementPolicy(mode=mode, retry_s=1.0, max_retry_s=1.0),
        adapters=tuple(AdapterRule(adapter=name, copies=1) for name in pinned),
    )


class ControlMachine(RuleBasedStateMachine):
    """Two controllers at most, replicas that come and go, and a network that does as it likes.

    The store comes and goes, too. A controller acts once it has read from there what is left of
    earlier ones and has taken an epoch.
    """

    @initialize(pinned=st.sampled_from(["", "a", "ab"]))
    def start(self, pinned: str) -> None:
        self.cluster = ControlCluster(3, NAMES, policy_of(pinned=pinned))
        self.book = ControllerBook(keeps=True)
        self.controllers = [self.cluster.controller(0)]
        self.epochs = 0  # taken by now
        self.snapshots: list[tuple[int, ReplicaSnapshot, float]] = []  # (controller, it, asked)
        self.reports: list[tuple[int, FrontReport]] = []
        self.plans: list[tuple[int, ReplicaPlan]] = []
        self.born = 3

    def _of(self, number: int) -> Reconciler:
        return self.controllers[number % len(self.controllers)]

    def _keep_right(self, controller: Reconciler) -> None:
        """Let a controller do with the store what it does before each tick."""
        if not self.book.reachable:
            return
        now, own = self.cluster.now, controller.leadership
        if own.leads:
            self.book.write_demand(partial(controller.demand_state, now))
        elif own.epoch == max(one.leadership.epoch for one in self.controllers) or own.epoch == 0:
            if own.epoch == 0:
                demand, history = self.book.read()
                controller.restore_history(history)
                if demand is not None:
                    controller.restore_demand(demand, now)
            epoch = self.book.take_epoch()
            assert epoch is not None
            self.epochs = epoch
            controller.lead(epoch, now)

    @rule(number=st.integers(0, 1))
    def ask(self, number: int) -> None:
        for replica in self.cluster.replicas.values():
            self.snapshots.append((number, replica.snapshot(), self.cluster.now))

    @rule(number=st.integers(0, 1))
    def push(self, number: int) -> None:
        self.reports.append((number, self.cluster.report()))

    @rule(data=st.data(), repeat=st.booleans())
    def deliver_snapshot(self, data: st.DataObject, repeat: bool) -> None:
        if self.snapshots:
            at = data.draw(st.integers(0, len(self.snapshots) - 1))
            number, said, asked = self.snapshots[at] if repeat else self.snapshots.pop(at)
            self._of(number).hear_replica(said, self.cluster.now, asked_at=asked)

    @rule(data=st.data(), repeat=st.booleans())
    def deliver_report(self, data: st.DataObject, repeat: bool) -> None:
        if self.reports:
            at = data.draw(st.integers(0, len(self.reports) - 1))
            number, report = self.reports[at] if repeat else self.reports.pop(at)
            self._of(number).hear_front(report, self.cluster.now)

    @rule(data=st.data(), repeat=st.booleans(), answered=st.booleans())
    def deliver_plan(self, data: st.DataObject, repeat: bool, answered: bool) -> None:
        if not self.plans:
            return
        at = data.draw(st.integers(0, len(self.plans) - 1))
        number, told = self.plans[at] if repeat else self.plans.pop(at)
        replica = self.cluster.replicas.get(told.replica_id)
        if replica is None:
            return
        answer = replica.obey(told)
        if answered:
            self._of(number).acknowledge(
                told.replica_id,
                answer.version,
                loaded=answer.loaded,
                policy=self.cluster.policy,
                now=self.cluster.now,
            )

    @rule()
    def lose_everything_under_way(self) -> None:
        self.snapshots.clear()
        self.reports.clear()
        self.plans.clear()

    @rule(number=st.integers(0, 1), seconds=st.sampled_from([0.1, 1.0, 4.0]))
    def tick(self, number: int, seconds: float) -> None:
        self.cluster.now += seconds
        controller = self._of(number)
        self._keep_right(controller)
        actions = controller.tick(
            self.cluster.catalog,
            self.cluster.policy,
            self.cluster.serve,
            self.cluster.now,
            self.cluster.wall,
        )
        self.plans += [(number, told) for told in actions.replica_plans]
        self.book.add_lines(actions.changes)
        if controller.leadership.epoch == 0:
            assert actions.replica_plans == ()
            assert actions.replica_count == self.cluster.target

    @rule(hours=st.floats(-1000, 1000))
    def step_the_wall_clock(self, hours: float) -> None:
        self.cluster.wall_offset_s = 3600 * hours

    @rule(names=st.sets(st.sampled_from(NAMES), max_size=2), count=st.integers(1, 9))
    def requests(self, names: set[str], count: int) -> None:
        self.cluster.request(*names, count=count)

    @rule()
    def replace_a_replica(self) -> None:
        gone = min(self.cluster.replicas)
        del self.cluster.replicas[gone]
        self.cluster.start_replica(f"r{self.born}")
        self.born += 1

    @rule(both=st.booleans())
    def begin_a_controller(self, both: bool) -> None:
        """Serve starts another one; the one before may go on, cut off from it."""
        newest = self.cluster.controller(0)
        self.controllers = [self.controllers[-1], newest] if both else [newest]

    @rule(reachable=st.booleans())
    def move_the_store(self, reachable: bool) -> None:
        """Let it leave or come back, with all that was written there."""
        self.book.reachable = reachable

    @rule()
    def a_leader_goes_on_without_the_store(self) -> None:
        """Bring its placement to rest, as if nothing were missing."""
        leader = max(self.controllers, key=lambda one: one.leadership.epoch)
        if 0 < leader.leadership.epoch == self.epochs:
            self.book.reachable = False
            self._come_to_rest(leader)

    @invariant()
    def replicas_never_go_back_to_a_lower_epoch(self) -> None:
        if hasattr(self, "cluster"):
            for replica in self.cluster.replicas.values():
                versions = [version for version, _ in replica.changes]
                assert versions == sorted(versions)

    @rule()
    def all_is_well_again(self) -> None:
        """Deliver everything: the newest controller's placement comes into force, and to rest."""
        self.book.reachable = True
        for controller in self.controllers:
            self._keep_right(controller)
        self._come_to_rest(max(self.controllers, key=lambda one: one.leadership.epoch))

    def _come_to_rest(self, newest: Reconciler) -> None:
        self.lose_everything_under_way()
        for _ in range(30):
            self.cluster.step(newest)
        for _ in range(SETS):  # as demand fades, each set may become worth one move
            obeyed = {name: one.version for name, one in self.cluster.replicas.items()}
            actions = self.cluster.step(newest)
            if not actions.moves:
                break
        assert actions.moves == ()
        status = newest.status(self.cluster.now)["replicas"]
        assert sorted(status) == sorted(self.cluster.replicas)
        for name, replica in self.cluster.replicas.items():
            assert {item["digest"] for item in status[name]["desired"]} == set(replica.desired)
            assert set(replica.desired) <= set(replica.resident)
            assert replica.version == obeyed[name]
            assert replica.version.epoch == newest.leadership.epoch == self.epochs


TestControl = ControlMachine.TestCase
TestControl.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def busy_cluster(policy: ClusterPolicy, *, seconds: int = 60) -> tuple[ControlCluster, Reconciler]:
    """Return a cluster that has served for a while, and its controller."""
    cluster = ControlCluster(4, NAMES, policy)
    controller = cluster.controller(1)
    for _ in range(seconds):
        for name in NAMES:
            cluster.request(name)
        cluster.step(controller)
    return cluster, controller


def releases(actions: Actions) -> list[AdapterDigest]:
    return [move.digest for move in actions.moves if move.kind.value == "release"]


@given(
    heard=st.sets(st.integers(0, 3)),
    mode=st.sampled_from(["on", "off", "observe"]),
    remembered=st.sampled_from(["all", "half", "nothing"]),
)
@settings(max_examples=25, deadline=None)
def test_a_restart_takes_nothing_away_in_its_first_tick(heard, mode, remembered) -> None:
    cluster, before = busy_cluster(policy_of(4))
    cluster.policy = policy_of(4, mode=mode)
    state = before.demand_state(cluster.now)
    if remembered == "half":
        state["rates"] = state["rates"][::2]
    after = cluster.controller(2)
    if remembered != "nothing":
        after.restore_demand(state, cluster.now)
    held = {name: set(one.resident) for name, one in cluster.replicas.items()}
    silent = {ReplicaId(f"r{n}") for n in range(4) if n not in heard}
    actions = cluster.step(after, silent=silent)
    assert actions.replica_count == 4
    assert releases(actions) == []
    assert all(held[name] <= one.resident for name, one in cluster.replicas.items())
    while silent and cluster.now < 1000.0 + 60 + 28:
        cluster.step(after, silent=silent)
        assert cluster.step(after, silent=silent).replica_count == 4


@given(st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=15, deadline=None)
def test_two_controllers_make_no_contrary_changes(rng: random.Random, old_hears: bool) -> None:
    cluster, old = busy_cluster(policy_of(4), seconds=20)
    new = cluster.controller(2)
    for replica in cluster.replicas.values():
        replica.changes.clear()
    for _ in range(60):
        for name in NAMES:
            cluster.request(name, count=rng.randrange(4))
        cluster.step(new)
        if old_hears:
            cluster.look(old)
        cluster.tick(old)
    for replica in cluster.replicas.values():
        assert {version.epoch for version, _ in replica.changes} <= {2}
    assert old.leadership.leads is not old_hears


@given(st.lists(st.floats(-1e9, 1e9), min_size=20, max_size=20))
@settings(max_examples=15, deadline=None)
def test_no_wall_clock_changes_anything(offsets: list[float]) -> None:
    def run(offsets: list[float]) -> list[Actions]:
        cluster = ControlCluster(3, NAMES, policy_of())
        controller = cluster.controller(1)
        found = []
        for offset in offsets:
            cluster.wall_offset_s = offset
            for name in NAMES[:3]:
                cluster.request(name)
            found.append(replace(cluster.step(controller), changes=()))
        return found

    assert run(offsets) == run([0.0] * len(offsets))


@given(st.sampled_from(["killed", "link lost", "hung"]), st.integers(0, 3), st.floats(0.0, 1.0))
@settings(max_examples=30, deadline=None)
def test_sole_copies_are_told_elsewhere_in_time(how: str, number: int, phase: float) -> None:
    cluster, controller = busy_cluster(policy_of(4))
    lost = ReplicaId(f"r{number}")
    sole = {d for d in cluster.replicas[lost].resident if cluster.homes(d) == [lost]}
    cluster.now += phase
    died_at = cluster.now
    gone = cluster.replicas.pop(lost)
    if how == "killed":
        controller.replica_died(lost, cluster.now, "ActorDiedError")
    elif how == "link lost":
        controller.hear_front(cluster.report(dead=[lost]), cluster.now)
    allowed = 5.0 if how == "hung" else 2.0
    while cluster.now <= died_at + 20.0:
        cluster.step(controller)
        if all(cluster.homes(d) for d in sole):
            break
    assert cluster.now - died_at <= allowed, (how, sole, gone)


@given(st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_a_front_without_a_network_moves_nothing(number: int) -> None:
    """Its links are lost to all, and all answer the controller."""
    cluster, controller = busy_cluster(policy_of(4))
    for replica in cluster.replicas.values():
        replica.changes.clear()
    for _ in range(5):
        cluster.now += 0.5
        controller.hear_front(cluster.report(dead=sorted(cluster.replicas)), cluster.now)
        cluster.now += 0.1
        cluster.look(controller)
        cluster.tick(controller)
    assert all(replica.changes == [] for replica in cluster.replicas.values())
    assert "replica_suspect" not in [change.kind for change in controller.history], number


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_plans_of_two_lives_may_come_in_any_order_and_again(data: st.DataObject) -> None:
    """A replica's own adapter manager obeys the newest plan that it has seen, and no older one."""
    cluster = ControlCluster(2, NAMES, policy_of(2))
    lives = [cluster.controller(epoch) for epoch in (1, 2)]
    plans: list[ReplicaPlan] = []
    for _ in range(6):
        for life in lives:
            pinned = data.draw(st.sets(st.sampled_from(NAMES), max_size=4))
            cluster.policy = policy_of(2, pinned="".join(sorted(pinned)))
            cluster.now += 1.0
            cluster.look(life)
            actions = cluster.tick(life, deaf=cluster.replicas)  # what they send is on its way
            plans += actions.replica_plans
    newest: dict[ReplicaId, ReplicaPlan] = {}
    for told in data.draw(st.lists(st.sampled_from(plans), max_size=30)):
        best = newest.setdefault(told.replica_id, told)
        if told.version > best.version:
            newest[told.replica_id] = best = told
        replica = cluster.replicas[told.replica_id]
        assert replica.obey(told).version == replica.version == best.version
        assert replica.desired == set(best.desired)
