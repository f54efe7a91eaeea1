"""Placement and scaling in a whole simulated cluster. Seeds are fixed: each is one long run."""

import random

import pytest

from cluster.domain.ids import ReplicaId
from cluster.domain.replica import LINK_SILENCE_S
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.policy import AdapterRule, ClusterPolicy, PlacementPolicy, ReplicasPolicy
from cluster.placement.rendezvous import mixture_key, order
from cluster.simulation.result import SimulationResult
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import ReplicaDies, ReplicaHangs, ReplicaSpec
from tests.support.small_traces import TraceMaker, spec_of, zipf


def desired_at(result: SimulationResult, at: float) -> dict[ReplicaId, tuple[str, ...]]:
    return {p.replica: p.desired for p in result.placements if p.at <= at}


def test_slots_and_bytes_hold_all_along() -> None:
    rng = random.Random(3)
    maker = TraceMaker(3)
    for _ in range(6):
        maker.serve([("acme", (f"a{n}",), rng.uniform(0, 0.3)) for n in range(20)], 10)
    shape = ReplicaSpec(slots=4, adapter_bytes=35 * 2**20)
    result = simulate(spec_of(maker.requests, 20, shape=shape))
    assert result.placements
    assert all(len(placed.desired) <= 3 for placed in result.placements)
    assert {served.outcome for served in result.requests} == {"ok"}


def test_constant_load_comes_to_rest() -> None:
    trace = TraceMaker(7).serve([("acme", (f"a{n}",), 0.3) for n in range(9)], 180).requests
    result = simulate(spec_of(trace, 9))
    assert sum(move.at > 60 for move in result.moves) <= 1
    assert result.count_changes == 0


@pytest.mark.parametrize(("mode", "moves"), [("on", 2), ("observe", 0), ("off", 0)])
def test_only_what_is_sent_is_moved(mode: str, moves: int) -> None:
    trace = TraceMaker(7).serve([("acme", ("a0",), 0.3)], 30).requests
    policy = ClusterPolicy(
        replicas=ReplicasPolicy(min=2, max=2),
        placement=PlacementPolicy(mode=mode),
        adapters=(AdapterRule(adapter="a1", copies="all"),),
    )
    result = simulate(spec_of(trace, 2, policy=policy, replicas=2))
    assert len([move for move in result.moves if move.kind == "prefetch"]) == moves
    assert (result.bytes_moved > 0) == (moves > 0)


def test_a_lost_replica_costs_the_cluster_little() -> None:
    trace = TraceMaker(5).serve([("acme", (f"a{n}",), 0.4) for n in range(6)], 150).requests
    shape = ReplicaSpec(slots=6)
    result = simulate(spec_of(trace, 6, shape=shape, faults=[ReplicaDies(60.0, 1)]))
    assert {served.outcome for served in result.requests} == {"ok"}
    assert result.deaths_seen[ReplicaId("r1")] - 60.0 <= 2.0
    late = [served for served in result.requests if served.asked.at > 90]
    assert sum(served.tier_found == "device" for served in late) / len(late) > 0.99


def test_a_hung_replica_is_seen_by_its_silence_and_replaced() -> None:
    trace = TraceMaker(6).serve([("acme", (f"a{n}",), 0.4) for n in range(6)], 120).requests
    result = simulate(spec_of(trace, 6, faults=[ReplicaHangs(30.0, 0)]))
    assert {served.outcome for served in result.requests} == {"ok"}
    picked_late = {s.replica for s in result.requests if 36 < s.asked.at < 60}
    assert "r0" not in picked_late
    assert result.samples[-1].ready == 3


def test_requests_of_a_hung_replica_continue_elsewhere_and_it_is_used_again() -> None:
    trace = TraceMaker(6).serve([("acme", (f"a{n}",), 0.8) for n in range(6)], 90).requests
    result = simulate(spec_of(trace, 6, faults=[ReplicaHangs(30.0, 0, 25.0)]))
    assert {served.outcome for served in result.requests} == {"ok"}
    assert any(served.failovers for served in result.requests)
    assert all(served.tokens == served.asked.generated_tokens for served in result.requests)
    assert max(served.e2e or 0.0 for served in result.requests) < 25.0 - LINK_SILENCE_S
    assert max(served.ttft or 0.0 for served in result.requests) < LINK_SILENCE_S + 2.0
    assert any(s.replica == "r0" for s in result.requests if s.asked.at > 56.0)


def test_no_replica_starts_before_its_time_and_the_first_request_waits_for_it() -> None:
    trace = TraceMaker(8).serve([("acme", ("a0",), 1.0)], 30).requests
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=0, max=2, zero_after=900, hold=120))
    result = simulate(spec_of(trace, 1, policy=policy, replicas=0))
    first = result.requests[0]
    assert first.outcome == "ok"
    assert 30.0 <= first.ttft <= 33.0  # the model's start, and what the words take
    assert any(sample.held for sample in result.samples)


def test_a_pin_is_kept_on_every_replica() -> None:
    trace = TraceMaker(9).serve([("acme", (f"a{n}",), 0.3) for n in range(12)], 60).requests
    policy = ClusterPolicy.fixed(3).model_copy(
        update={"adapters": (AdapterRule(adapter="a11", copies="all"),)}
    )
    result = simulate(spec_of(trace, 12, policy=policy))
    placed = desired_at(result, 60.0)
    assert len(placed) == 3
    assert all("digest-011" in desired for desired in placed.values())


class ByHashing:
    """Picks the first replica in the set's rendezvous order, whatever it holds."""

    def pick(self, view: ClusterView, request: PickRequest, now: float) -> ReplicaId | None:
        ids = [r.replica_id for r in view.replicas() if r.replica_id not in request.exclude]
        return order(mixture_key(request.digests), ids)[0] if ids else None


class ByChance:
    """Picks any replica."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def pick(self, view: ClusterView, request: PickRequest, now: float) -> ReplicaId | None:
        ids = [r.replica_id for r in view.replicas() if r.replica_id not in request.exclude]
        return self._rng.choice(ids) if ids else None


@pytest.mark.slow
def test_mixtures_are_resident_more_often_than_by_hashing_or_chance() -> None:
    rng = random.Random(1)
    weights = zipf(40, 1.1)
    streams = [("acme", (f"a{n}",), 3 * w / sum(weights)) for n, w in enumerate(weights)]
    streams += [("acme", tuple({f"a{rng.randrange(40)}" for _ in "ab"}), 0.06) for _ in range(20)]
    trace = TraceMaker(2).serve(streams, 120).requests
    rules = (None, lambda *_: ByHashing(), lambda _, seed: ByChance(seed))
    settings = {"policy": ClusterPolicy.fixed(4), "replicas": 4}
    planned, hashed, chance = (
        simulate(spec_of(trace, 40, picker=rule, **settings)).whole_resident_share for rule in rules
    )
    assert planned > hashed + 0.05
    assert planned > chance + 0.2
