"""The laws of the replica count, in virtual time over the whole loop from counters to count."""

import itertools
import math
import random
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cluster.placement.cost.model import CostModel, StepCost
from cluster.placement.demand.clocks import up_rate
from cluster.placement.demand.demand import Demand, DemandKey, DemandRate
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy, ScheduleEntry
from cluster.placement.scaling.schedule import bounds_at
from cluster.placement.scaling.wishes import needs_of
from tests.support.scale_loop import MONDAY, SHAPE, ScaleLoop, key

WIDE = ClusterPolicy(replicas=ReplicasPolicy(min=1, max=12))
SETTLED_S = 960.0
"""Four half-lives of the slow clock: what it still lacks is less than one of 12 replicas."""
STEPS = st.builds(
    StepCost,
    per_step=st.floats(0.001, 0.1),
    per_prefill_token=st.floats(0.0, 0.002),
    per_decode_row=st.floats(0.0, 0.01),
    per_context_block=st.floats(0.0, 0.001),
    per_adapter_byte=st.floats(0.0, 1e-9),
)
MODELS = st.builds(lambda step: CostModel(step=step), STEPS)
SLOW_LOOKS = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def turns(changes: list[tuple[int, int]]) -> int:
    """Return how often the count changed its direction."""
    signs = [math.copysign(1, after - before) for before, after in changes]
    return sum(a != b for a, b in itertools.pairwise(signs))


@given(MODELS, st.floats(0.01, 60.0), st.integers(1, 12), st.integers(1, 40))
@example(CostModel(), 3.6, 1, 1)
@SLOW_LOOKS
def test_constant_arrivals_come_to_rest(model, rate, start, adapters) -> None:
    loop = ScaleLoop(WIDE, model, count=start, look_s=2.0)
    stable = WIDE.replicas.down.stable
    sets = [key("acme", f"a{i}") for i in range(adapters)]
    flows = [(one, rate / adapters) for one in sets]
    # A start that is too high falls by one at a time.
    loop.run(max(SETTLED_S, (start + 2) * stable), lambda _: flows)
    settled = loop.now
    loop.run(4 * stable, lambda _: flows)
    assert len(loop.changes_after(settled)) <= 1


@given(MODELS, st.floats(0.05, 30.0))
@SLOW_LOOKS
def test_a_constant_rate_from_one_replica_changes_in_one_direction(model, rate) -> None:
    loop = ScaleLoop(WIDE, model, look_s=2.0)
    loop.run(2400, lambda _: [(key("acme", "a"), rate)])
    assert all(after > before for before, after in loop.changes_after(0.0))
    assert len(loop.changes_after(SETTLED_S)) <= 1


@given(
    MODELS,
    st.floats(0.0, 20.0),
    st.floats(0.0, 20.0),
    st.sampled_from([4.0, 8.0, 30.0, 120.0, 280.0, 800.0, 2400.0]),
)
@SLOW_LOOKS
def test_a_square_wave_turns_the_count_at_most_twice_a_period(model, low, high, period) -> None:
    loop = ScaleLoop(WIDE, model, look_s=2.0)

    def wave(now: float) -> list[tuple[DemandKey, float]]:
        return [(key("acme", "a"), high if now % period < period / 2 else low)]

    stable = WIDE.replicas.down.stable
    loop.run(max(SETTLED_S, 2 * period), wave)
    settled, periods = loop.now, max(4, math.ceil(1200 / period))
    loop.run(periods * period, wave)
    changes = loop.changes_after(settled)
    assert turns(changes) <= 2 * periods
    if period < WIDE.replicas.up.stable:
        assert len(changes) <= 1  # the slow clock may not have risen to its end yet
    if period < stable:
        assert turns(loop.changes_after(0.0)) == 0


@pytest.mark.parametrize(
    ("rate", "work"),
    [(0.05, 0.97), (0.05, 2.5), (0.5, 1.03), (0.5, 6.0), (3.6, 0.97), (3.6, 2.5)],
)
def test_noise_changes_the_count_at_most_twice_a_day(rate: float, work: float) -> None:
    """Poisson arrivals whose mean work is near or far from what the replicas can take."""
    rng = random.Random(f"{rate} {work}")
    seconds = work * WIDE.replicas.target / rate
    step = StepCost(0.0, seconds / 100, 0.0, 0.0, 0.0)  # 100 prompt tokens
    loop = ScaleLoop(WIDE, CostModel(step=step), look_s=10.0, generated_tokens=0)
    patient = {"*": "patient"}
    loop.policy = WIDE.model_copy(
        update={
            "tiers": {"patient": WIDE.tiers["standard"].model_copy(update={"ttft": 1e4})},
            "tenants": patient,
        }
    )
    which = key("acme", "a")

    def poisson(seconds: float) -> None:
        end = loop.now + seconds
        due = loop.now + rng.expovariate(rate)
        while loop.now < end:
            while due <= loop.now + loop.look_s:
                loop.arrive(which)
                due += rng.expovariate(rate)
            loop.look()

    poisson(3600)
    settled = loop.now
    poisson(86_400)
    assert len(loop.changes_after(settled)) <= 2, loop.changes_after(settled)


def test_noise_among_adapters_changes_the_count_at_most_twice_a_day() -> None:
    """Poisson arrivals over a long tail of adapters, some of which never fit."""
    rng = random.Random(3)
    step = StepCost(0.0, 1e-6, 0.0, 0.0, 0.0)
    loop = ScaleLoop(WIDE, CostModel(step=step), look_s=10.0, generated_tokens=0)
    sets = [key("acme", f"a{number}") for number in range(60)]
    weights = [1.0 / (number + 1) for number in range(60)]
    due = 0.0
    while loop.now < 13 * 3600.0:
        while due <= loop.now + loop.look_s:
            loop.arrive(rng.choices(sets, weights)[0])
            due += rng.expovariate(2.0)
        loop.look()
    assert len(loop.changes_after(3600.0)) <= 1, loop.changes_after(3600.0)


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
    st.lists(st.tuples(st.floats(0, 200), st.integers(1, 72)), min_size=1, max_size=24),
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
    for rate, looks in hours:
        for _ in range(looks):
            loop.flow(key("acme", "a"), rate / 100)
            count = loop.look()
            floor, most = bounds_at(replicas, MONDAY + timedelta(seconds=loop.now))
            assert floor <= count <= most


@given(
    MODELS,
    st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(10, 600)), min_size=2, max_size=6),
    st.integers(0, 4000),
)
@SLOW_LOOKS
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


@given(MODELS, st.integers(1, 30), st.floats(0.1, 5.0))
@SLOW_LOOKS
def test_zero_and_back(model, requests, rate) -> None:
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=0, max=4, zero_after=120.0))
    loop = ScaleLoop(policy, model, look_s=2.0)
    loop.run(requests / rate + 10, lambda _: [(key("acme", "a"), rate)])
    assert loop.count >= 1
    loop.run(2000, lambda _: [])
    assert loop.count == 0
    loop.shape = None  # no replica is there to say what it is like
    loop.arrive(key("acme", "a"))
    assert loop.look() == 1


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
