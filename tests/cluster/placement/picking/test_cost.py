"""The four terms of a replica's cost, one by one."""

import dataclasses

import pytest

from cluster.domain.adapter import AdapterState
from cluster.placement.cost.model import CostModel, LoadCost, StepCost
from cluster.placement.exchange import FrontOrders
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.cost import COMES_BACK, Terms, cost_of
from cluster.placement.picking.filters import PickRequest
from cluster.placement.picking.prefix_affinity import prefix_keys

NOW = 50.0
MODEL = CostModel(
    step=StepCost(0.02, 0.001, 0.001, 0.0, 1e-6, 0.0),
    host_load=LoadCost(0.1, 0.01),
    disk_load=LoadCost(0.3, 0.02),
)


def view_of(snapshot, model: CostModel = MODEL) -> ClusterView:
    view = ClusterView()
    view.follow(FrontOrders(0, 0, model=model))
    view.update(snapshot, NOW)
    return view


def terms(view: ClusterView, *names: str, prompt: int = 100, now: float = NOW, **others) -> Terms:
    request = PickRequest(tuple(f"digest-{n}" for n in names), "acme", (), prompt, 50, **others)
    asked = view.asked(request, harm=0.25, prefix=True, now=now)
    return cost_of(view.replicas()[0], asked, view.model)


def test_an_idle_replica_that_has_everything_costs_the_prompt_and_one_step(build) -> None:
    found = terms(view_of(build.snapshot(resident=(build.resident("a"),))), "a")
    assert found.queue == found.load == found.harm == 0.0
    assert found.prefill == pytest.approx(0.1 + 0.02)
    assert found.ttft == found.cost == found.prefill


def test_prompts_ahead_are_waited_for(build) -> None:
    found = terms(view_of(build.snapshot(backlog=(("acme", 300),))))
    assert found.queue == pytest.approx(0.3)


def test_a_full_batch_is_waited_for(build) -> None:
    free = terms(view_of(build.snapshot(running=15)))
    full = terms(view_of(build.snapshot(running=16)))
    longer = terms(view_of(build.snapshot(running=16, queued=3)))
    assert free.queue == 0.0
    assert full.queue == pytest.approx(1 * 64 * 0.036 / 16)
    assert longer.queue == pytest.approx(4 * full.queue)


def test_a_load_comes_from_the_nearest_tier(build) -> None:
    view = view_of(build.snapshot())
    assert terms(view, "a").load == pytest.approx(0.3)  # its size is not known
    view.set_on_host("r0", ["digest-a"])
    assert terms(view, "a").load == pytest.approx(0.1)
    known = view_of(build.snapshot(resident=(build.resident("a", AdapterState.ON_HOST),)))
    assert terms(known, "a").load == pytest.approx(0.1 + 10 * 0.01)


def test_the_rest_of_a_load_under_way_is_waited_for(build) -> None:
    view = view_of(build.snapshot(resident=(build.resident("a", AdapterState.LOADING),)))
    assert terms(view, "a").load == pytest.approx(0.5)
    assert terms(view, "a", now=NOW + 0.2).load == pytest.approx(0.3)
    assert terms(view, "a", now=NOW + 5).load == 0.0
    assert terms(view, "a", now=NOW - 5).load == pytest.approx(0.5)


def test_a_load_that_waits_for_others_is_not_under_way(build) -> None:
    loading = [build.resident(name, AdapterState.FETCHING) for name in "abcd"]
    view = view_of(build.snapshot(slots=8, resident=tuple(loading)))
    assert terms(view, "b").load == pytest.approx(0.5)
    assert terms(view, "d").load == pytest.approx(1.0)
    assert terms(view, "d", now=NOW + 0.4).load == pytest.approx(0.6)
    done = [build.resident(name) for name in "ab"]
    view.update(build.snapshot(slots=8, resident=(*done, *loading[2:]), sequence=1), NOW + 0.6)
    assert terms(view, "d", now=NOW + 0.8).load == pytest.approx(0.3)


def test_a_load_and_the_queue_pass_at_the_same_time(build) -> None:
    found = terms(view_of(build.snapshot(backlog=(("acme", 200),))), "a")
    assert (found.queue, found.load) == (pytest.approx(0.2), pytest.approx(0.3))
    assert found.cost == pytest.approx(0.3 + found.prefill + found.harm)


def test_loads_go_two_by_two(build) -> None:
    view = view_of(build.snapshot(slots=8))
    assert terms(view, "a", "b").load == pytest.approx(0.3)
    assert terms(view, "a", "b", "c", "d").load == pytest.approx(0.6)
    coming = tuple(build.resident(n, AdapterState.LOADING) for n in "xyzw")
    busy = view_of(build.snapshot(slots=8, resident=coming, loading_bytes=40))
    assert terms(busy, "a").load == pytest.approx(0.3 + (4 * 0.3 + 40 * 0.02) / 2)


def test_what_has_to_be_evicted_is_missed_by_others(build) -> None:
    idle = tuple(build.resident(n) for n in "wxyz")
    full = terms(view_of(build.snapshot(resident=idle, host_bytes_limit=1)), "a")
    assert full.harm == pytest.approx(COMES_BACK * 0.1)
    no_host = terms(view_of(build.snapshot(resident=idle)), "a")
    assert no_host.harm == pytest.approx(COMES_BACK * 0.3)
    assert terms(view_of(build.snapshot(resident=idle[:3])), "a").harm == 0.0
    promised = view_of(build.snapshot(resident=idle, desired=("a",)))
    assert terms(promised, "a").harm == 0.0


def test_a_replica_without_room_makes_wait_until_a_request_ends(build) -> None:
    leased = tuple(build.resident(n, leases=1) for n in "wxyz")
    pinned = tuple(build.resident(n, pinned=True) for n in "wxyz")
    idle = tuple(build.resident(n) for n in "wxyz")
    room = terms(view_of(build.snapshot(resident=idle)), "a").load
    assert terms(view_of(build.snapshot(resident=leased)), "a").load > room
    assert terms(view_of(build.snapshot(resident=pinned)), "a").load > room


def test_those_that_run_are_harmed_by_the_prompt_and_by_each_step(build) -> None:
    found = terms(view_of(build.snapshot(running=4)))
    assert found.harm == pytest.approx(0.25 * 4 * (0.1 + 50 * 0.001))
    view = view_of(build.snapshot(running=4, resident=(build.resident("a", nbytes=1000),)))
    assert terms(view, "a").harm == pytest.approx(0.25 * 4 * (0.1 + 50 * (0.001 + 0.001)))
    used = build.resident("a", nbytes=1000, leases=2)
    view = view_of(build.snapshot(running=4, resident=(used,)))
    assert terms(view, "a").harm == pytest.approx(0.25 * 4 * (0.1 + 50 * 0.001))


def test_a_slow_replica_costs_more(build) -> None:
    slow = dataclasses.replace(MODEL, slowness={"r0": 2.0})
    snapshot = build.snapshot(backlog=(("acme", 100),))
    assert terms(view_of(snapshot, slow)).ttft == pytest.approx(2 * terms(view_of(snapshot)).ttft)


def test_a_prompt_that_was_here_before_costs_its_end_alone(build) -> None:
    view = view_of(build.snapshot(prefix_age_s=30.0))
    prefix = prefix_keys(1, range(100))
    whole = terms(view, prefix=prefix).prefill
    view.sent("q1", "r0", PickRequest((), "acme", (), 100, 50, prefix), NOW)
    view.update(build.snapshot(prefix_age_s=30.0, sequence=1), NOW)
    assert terms(view, prefix=prefix).prefill == pytest.approx(whole - 0.064)
    assert terms(view, prefix=prefix, now=NOW + 29).prefill == pytest.approx(whole - 0.064)
    assert terms(view, prefix=prefix, now=NOW + 31).prefill == pytest.approx(whole)
    exact = prefix_keys(1, range(64))
    view.sent("q2", "r0", PickRequest((), "acme", (), 64, 50, exact), NOW)
    assert terms(view, prompt=64, prefix=exact).prefill >= 0.001  # its last token is computed
