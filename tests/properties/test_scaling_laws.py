"""The laws of the replica count that one look obeys, whatever it is shown."""

import math
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.domain.ids import AdapterDigest
from cluster.placement.demand.clocks import up_rate
from cluster.placement.demand.demand import Demand, DemandRate
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy, ScheduleEntry
from cluster.placement.scaling.count import CountScaler
from cluster.placement.scaling.schedule import bounds_at
from cluster.placement.scaling.wishes import needs_of
from tests.support.scale_loop import MODELS, MONDAY, SHAPE, WIDE, ScaleLoop, key


@given(
    st.integers(0, 4),
    st.integers(0, 6),
    st.lists(
        st.tuples(
            st.sampled_from(["mon-fri", "sat,sun", "mon", "tue-mon"]),
            st.sampled_from(["00:00", "07:30", "19:00", "23:59"]),
            st.sampled_from(["24:00", "07:00", "19:30", "23:58"]),
            st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
            st.integers(1, 12),
        ),
        max_size=4,
    ),
    st.lists(
        st.tuples(st.floats(0, 200), st.integers(1, 72), st.booleans()), min_size=1, max_size=8
    ),
    st.integers(0, 20),
)
@settings(max_examples=60, deadline=None)
def test_bounds_and_schedule_hold_at_every_look(low, more, entries, hours, start) -> None:
    replicas = ReplicasPolicy(
        min=low,
        max=max(1, low + more),
        zero_after=60.0 if low == 0 else None,
        schedule=tuple(
            ScheduleEntry.model_validate(
                {
                    "days": days,
                    "from": begin,
                    "to": end,
                    "zone": zone,
                    "min": least,
                    "max": least + 3,
                }
            )
            for days, begin, end, zone, least in entries
        ),
    )
    loop = ScaleLoop(ClusterPolicy(replicas=replicas), count=start, look_s=1800.0)
    for rate, looks, complete in hours:
        for _ in range(looks):
            loop.flow(key("acme", "a"), rate / 100)
            before = loop.count
            count = loop.look(complete=complete)
            floor, most = bounds_at(replicas, MONDAY + timedelta(seconds=loop.now))
            # Before every replica has reported none is taken away.
            assert floor <= count <= (most if complete else max(most, before))


@given(
    MODELS,
    st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(10, 600)), min_size=2, max_size=6),
    st.integers(0, 4000),
)
@settings(max_examples=8, deadline=None)
def test_fewer_replicas_never_break_a_promise(model, phases, prompt) -> None:
    loop = ScaleLoop(WIDE, model, look_s=5.0, prompt_tokens=prompt)
    before = loop.count
    for rate, seconds in phases:
        end = loop.now + seconds
        while loop.now < end:
            loop.flow(key("acme", "a"), rate)
            count = loop.look()
            if count < before:
                needs = needs_of(loop.inputs(loop.rates.demand(loop.now)), SHAPE)
                for tier in needs.tiers:
                    if tier.possible:
                        assert tier.predict(needs.work.down, count) <= tier.promise_s
            before = count


RATES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d"]),
        st.floats(0.001, 20.0),
        st.floats(0.001, 20.0),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda item: item[0],
)


@given(MODELS, RATES)
@settings(max_examples=60, deadline=None)
def test_dividing_tenants_changes_no_wish(model, rates) -> None:
    loop = ScaleLoop(WIDE, model)

    def demand(parts: bool) -> Demand:
        made = []
        for adapter, fast, slow, pieces in rates:
            number = pieces if parts else 1
            for piece in range(number):
                made.append(
                    DemandRate(
                        key(f"tenant-{piece}" if parts else "acme", adapter),
                        0.0,
                        0.0,
                        0.0,
                        100.0,
                        50.0,
                        fast=fast / number,
                        slow=slow / number,
                    )
                )
        return Demand(tuple(made))

    whole, divided = (needs_of(loop.inputs(demand(parts)), SHAPE) for parts in (False, True))
    assert whole.work.up == pytest.approx(divided.work.up)
    assert whole.work.down == pytest.approx(divided.work.down)
    assert whole.load(1).count == divided.load(1).count or math.isclose(
        whole.work.up / 0.7 % 1.0, 0.0, abs_tol=1e-6
    )
    for replicas in (1, 2, 3):
        assert whole.curve.cold(replicas) == pytest.approx(divided.curve.cold(replicas))
    if all(not near_whole(w.work.up / 0.7) for w in (whole, divided)):
        assert counts_of(loop, demand(False)) == counts_of(loop, demand(True))


def near_whole(number: float) -> bool:
    return math.isclose(number, round(number), abs_tol=1e-6)


def counts_of(loop: ScaleLoop, demand: Demand) -> list[int]:
    """Return the counts that a demand that stays leads to."""
    scaler, counts = CountScaler(), [1]
    for look in range(80):
        seen = replace(loop.inputs(demand), target=counts[-1], ready=counts[-1])
        counts.append(scaler.decide(seen, 10.0 * look).count)
    return counts


@given(MODELS, st.floats(0.1, 20.0), st.integers(2, 6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_dividing_a_set_changes_no_count(model, rate, pieces, pairs) -> None:
    """The same requests on one set, or evenly on several of the same size that have room."""
    loop = ScaleLoop(WIDE, model)
    loop.sizes = {AdapterDigest(f"a{piece}"): 1_000_000 for piece in range(pieces)}
    loop.sizes |= {AdapterDigest("b"): 1_000_000}

    def demand(parts: int) -> Demand:
        each = rate / parts
        sets = [(f"a{piece}", "b") if pairs else (f"a{piece}",) for piece in range(parts)]
        return Demand(
            tuple(
                DemandRate(key("acme", *one), 0.0, 0.0, 0.0, 100.0, 50.0, fast=each, slow=each)
                for one in sets
            )
        )

    whole, divided = (needs_of(loop.inputs(demand(parts)), SHAPE) for parts in (1, pieces))
    assert whole.work.up == pytest.approx(divided.work.up)
    assert whole.work.down == pytest.approx(divided.work.down)
    if not near_whole(whole.work.up / 0.7):
        assert counts_of(loop, demand(1)) == counts_of(loop, demand(pieces))


def test_a_held_request_wakes_the_cluster_before_it_is_counted() -> None:
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=0, max=4, zero_after=60.0))
    loop = ScaleLoop(policy, count=0)
    assert [loop.look() for _ in range(5)] == [0] * 5
    assert loop.look(in_flight=1) == 1


def test_what_runs_keeps_the_last_replica() -> None:
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=0, max=4, zero_after=60.0))
    loop = ScaleLoop(policy)
    assert {loop.look(in_flight=1) for _ in range(200)} == {1}
    assert [loop.look() for _ in range(70)][-1] == 0


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0.1, 5))
def test_up_grows_with_both_clocks(fast: float, slow: float, more: float) -> None:
    assert up_rate(fast + more, slow) >= up_rate(fast, slow)
    assert up_rate(fast, slow + more) >= up_rate(fast, slow)
