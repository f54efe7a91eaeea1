"""Replicas are emptied before the count falls, and Serve's choice is foreseen."""

import copy
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster.domain.ids import ReplicaId
from cluster.placement.control.drain import (
    Drain,
    DrainStep,
    ServeReplica,
    ServeReplicas,
    leaving_order,
)

A, B, C, D = (ReplicaId(name) for name in "abcd")
DRAIN_S = 60.0


def on(*nodes: str, head: str = "", others: dict[str, int] | None = None) -> ServeReplicas:
    """Name replicas a, b, ... by age, each on a node; a node "" is of one that starts."""
    return ServeReplicas(
        tuple(
            ServeReplica(ReplicaId("abcdefgh"[index]), node, running=bool(node))
            for index, node in enumerate(nodes)
        ),
        head,
        others or {},
    )


@pytest.mark.parametrize(
    ("serve", "order"),
    [
        (on(), ()),
        (on("n", "n", "n"), (C, B, A)),
        (on("n", "n", ""), (C, B, A)),
        (on("h", "n", "n", head="h"), (C, B, A)),
        (on("n", "h", "h", head="h"), (A, C, B)),
        (on("m", "n", "n"), (A, C, B)),
        (on("m", "n", "n", others={"m": 2}), (C, B, A)),
        (on("m", "n", "m", "n"), (C, A, D, B)),
    ],
    ids=[
        "nobody",
        "the newest first",
        "one that starts before all",
        "the head last",
        "the head last though its replicas are newer",
        "the emptier node first",
        "other deployments fill a node too",
        "nodes equally full go by their oldest",
    ],
)
def test_serve_ends_replicas_in_this_order(
    serve: ServeReplicas, order: tuple[ReplicaId, ...]
) -> None:
    assert leaving_order(serve) == order


def look(
    drain: Drain, wanted: int, target: int, serve: ServeReplicas, now: float, *sole: ReplicaId
) -> DrainStep:
    return drain.look(wanted, target, serve, sole=sole, drain_s=DRAIN_S, now=now)


def test_the_count_falls_once_the_leaver_holds_nothing_alone() -> None:
    drain, serve = Drain(), on("n", "n")
    assert look(drain, 1, 2, serve, 0, B) == DrainStep(2, frozenset({B}))
    assert look(drain, 1, 2, serve, 30, B) == DrainStep(2, frozenset({B}))
    assert look(drain, 1, 2, serve, 31, A) == DrainStep(1, frozenset({B}))
    assert look(drain, 1, 1, serve, 32, A) == DrainStep(1, frozenset({B})), "Serve has yet to act"
    assert look(drain, 1, 1, on("n"), 33) == DrainStep(1)


def test_the_count_falls_all_the_same_after_a_while() -> None:
    drain, serve = Drain(), on("n", "n")
    look(drain, 1, 2, serve, 5, B)
    assert look(drain, 1, 2, serve, 64.9, B).count == 2
    assert look(drain, 1, 2, serve, 65, B).count == 1


def test_marks_are_lifted_when_the_count_may_stay() -> None:
    drain, serve = Drain(), on("n", "n")
    look(drain, 1, 2, serve, 0, B)
    assert look(drain, 2, 2, serve, 10, B) == DrainStep(2)
    assert look(drain, 1, 2, serve, 60, B).count == 2, "the time begins again"


def test_the_wrong_prediction_is_told_and_its_mark_lifted() -> None:
    drain = Drain()
    look(drain, 1, 2, on("n", "n"), 0)
    left = ServeReplicas((ServeReplica(B, "n"),))
    assert look(drain, 1, 1, left, 1) == DrainStep(1, frozenset(), (A,))
    assert look(drain, 1, 1, left, 2) == DrainStep(1)


def test_a_start_that_nobody_needs_any_more_is_given_up_at_once() -> None:
    drain = Drain()
    assert look(drain, 1, 2, on("n", ""), 0, A) == DrainStep(1, frozenset({B}))


def test_several_leave_together() -> None:
    drain, serve = Drain(), on("n", "n", "n", "n")
    assert look(drain, 2, 4, serve, 0, C) == DrainStep(4, frozenset({C, D}))
    assert look(drain, 2, 4, serve, 1) == DrainStep(2, frozenset({C, D}))


def test_a_rise_during_a_fall_comes_through() -> None:
    drain, serve = Drain(), on("n", "n")
    assert look(drain, 1, 2, serve, 0).count == 1
    assert look(drain, 2, 1, serve, 1) == DrainStep(2)


def test_a_target_that_somebody_else_set_ends_the_fall() -> None:
    drain, serve = Drain(), on("n", "n", "n")
    assert look(drain, 2, 3, serve, 0).count == 2
    assert look(drain, 2, 3, serve, 1, C) == DrainStep(3, frozenset({C}))


def test_all_may_leave() -> None:
    drain = Drain()
    assert look(drain, 0, 2, on("n", "n"), 0) == DrainStep(0, frozenset({A, B}))
    assert look(drain, 0, 0, on(), 1) == DrainStep(0)


@given(st.lists(st.tuples(st.sampled_from("hmno"), st.booleans())), st.randoms())
def test_everybody_is_in_the_order_once_and_names_do_not_matter(
    places: list[tuple[str, bool]], shuffle: random.Random
) -> None:
    def named(names: list[str]) -> ServeReplicas:
        return ServeReplicas(
            tuple(
                ServeReplica(ReplicaId(name), node, running=running)
                for name, (node, running) in zip(names, places, strict=True)
            ),
            "h",
        )

    names = [str(number) for number in range(len(places))]
    order = leaving_order(named(names))
    assert sorted(order) == sorted(names)
    other = shuffle.sample(names, len(names))
    renamed = dict(zip(names, other, strict=True))
    assert leaving_order(named(other)) == tuple(renamed[name] for name in order)
    running = {name for name, (_, runs) in zip(names, places, strict=True) if runs}
    assert not any(name in running for name in order[: len(order) - len(running)])


@dataclass
class Cluster:
    """Serve as far as draining sees it; it may choose other replicas than predicted."""

    alive: list[ServeReplica] = field(default_factory=list)
    target: int = 0
    born: int = 0

    @property
    def seen(self) -> ServeReplicas:
        return ServeReplicas(tuple(self.alive), "h")


class DrainMachine(RuleBasedStateMachine):
    """Any wishes, deaths, starts and choices of Serve, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster, self.drain = Cluster(), Drain()
        self.now, self.wanted = 0.0, 0
        self.sole: frozenset[ReplicaId] = frozenset()
        self.step = DrainStep(0)
        self.marked_since: dict[ReplicaId, float] = {}

    @rule(wanted=st.integers(0, 5))
    def wish(self, wanted: int) -> None:
        self.wanted = wanted

    @rule(count=st.integers(0, 5))
    def reset(self, count: int) -> None:
        """Let a configuration that is applied again set the target."""
        self.cluster.target = count

    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        names = sorted(replica.replica_id for replica in self.cluster.alive)
        self.sole = frozenset(data.draw(st.lists(st.sampled_from(names))) if names else ())

    @precondition(lambda self: self.cluster.alive)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.cluster.alive.remove(data.draw(st.sampled_from(self.cluster.alive)))

    @rule(data=st.data(), node=st.sampled_from("hmn"))
    def serve_acts(self, data: st.DataObject, node: str) -> None:
        cluster = self.cluster
        while len(cluster.alive) > cluster.target:
            cluster.alive.remove(data.draw(st.sampled_from(cluster.alive)))
        while len(cluster.alive) < cluster.target:
            running = data.draw(st.booleans())
            cluster.alive.append(ServeReplica(ReplicaId(f"r{cluster.born}"), node, running=running))
            cluster.born += 1

    @rule(passed=st.floats(0, 2 * DRAIN_S))
    def look(self, passed: float) -> None:
        self.now += passed
        before, seen = self.cluster.target, self.cluster.seen
        self.step = self.drain.look(
            self.wanted, before, seen, sole=self.sole, drain_s=DRAIN_S, now=self.now
        )
        step, there = self.step, {replica.replica_id for replica in seen.replicas}
        since = {name: self.marked_since.get(name, self.now) for name in step.draining}
        self.marked_since = since
        assert min(self.wanted, before) <= step.count <= max(self.wanted, before)
        if step.count < before:
            leavers = leaving_order(seen)[: max(0, len(there) - step.count)]
            assert step.draining == set(leavers)
            assert step.count == self.wanted
            assert all(
                name not in self.sole or self.now - since[name] >= DRAIN_S for name in leavers
            )
        assert not set(step.surprises) & (there | step.draining)
        self.cluster.target = step.count

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        """Check that the count becomes the wanted one if nothing else happens."""
        cluster, drain, now = self.cluster, copy.deepcopy(self.drain), self.now
        target, alive = cluster.target, list(cluster.alive)
        for _ in range(4):
            seen = ServeReplicas(tuple(alive), "h")
            step = drain.look(self.wanted, target, seen, sole=self.sole, drain_s=DRAIN_S, now=now)
            target, now = step.count, now + DRAIN_S + 1.0  # sums of floats may fall short
            leaving = leaving_order(seen)[: max(0, len(alive) - target)]
            alive = [replica for replica in alive if replica.replica_id not in leaving]
        assert (target, step.draining) == (self.wanted, frozenset())


TestDrainMachine = DrainMachine.TestCase
