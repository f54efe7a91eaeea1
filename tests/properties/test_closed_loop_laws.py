"""The laws of the replica count over the whole loop: queues, starts, drains, and what comes of it.

All runs in virtual time, from the front's counters to the count that Serve receives.
"""

import itertools
import math
import random
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.placement.cost.fit import STEP_NAMES
from cluster.placement.cost.model import CostModel, StepCost
from cluster.placement.demand.demand import DemandKey
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy
from tests.support.closed_loop import ClosedLoop
from tests.support.scale_loop import MODELS, WIDE, key

SETTLED_S = 960.0
"""Four half-lives of the slow clock: what it still lacks is less than one of 12 replicas."""
SLOW_LOOKS = settings(max_examples=5)
STARTS_S = st.sampled_from([1.0, 30.0, 120.0])
PATIENT = WIDE.model_copy(
    update={
        "tiers": {"patient": WIDE.tiers["standard"].model_copy(update={"ttft": 1e4})},
        "tenants": {"*": "patient"},
    }
)
"""Requests of many seconds keep this promise."""


def turns(changes: list[tuple[int, int]]) -> int:
    """Return how often the count changed its direction."""
    signs = [math.copysign(1, after - before) for before, after in changes]
    return sum(a != b for a, b in itertools.pairwise(signs))


@given(
    MODELS,
    STARTS_S,
    st.floats(0.01, 30.0),
    st.integers(1, 12),
    st.integers(1, 40),
    st.booleans(),
)
@example(CostModel(), 30.0, 3.6, 1, 1, False)
@SLOW_LOOKS
def test_constant_arrivals_come_to_rest(model, start_s, rate, start, adapters, drains) -> None:
    model = replace(model, start_s=start_s)
    loop = ClosedLoop(WIDE, model, count=start, drains=drains)
    stable = WIDE.replicas.down.stable
    flows = [(key("acme", f"a{i}"), rate / adapters) for i in range(adapters)]
    # What waits at the start may ask for as many as are allowed, and they go one at a time.
    loop.run(SETTLED_S + WIDE.replicas.max * (stable + WIDE.replicas.down.drain), lambda _: flows)
    settled = loop.now
    loop.run(4 * stable, lambda _: flows)
    assert len(loop.changes_after(settled)) <= 1


@given(MODELS, STARTS_S, st.floats(0.05, 30.0))
@SLOW_LOOKS
def test_a_constant_rate_from_one_replica_turns_once(model, start_s, rate) -> None:
    """More may be needed to work off what came while replicas started; they go again."""
    loop = ClosedLoop(WIDE, replace(model, start_s=start_s))
    loop.run(2400, lambda _: [(key("acme", "a"), rate)])
    assert turns(loop.changes_after(0.0)) <= 1


@given(
    MODELS,
    STARTS_S,
    st.floats(0.0, 20.0),
    st.floats(0.0, 20.0),
    st.sampled_from([4.0, 8.0, 30.0, 120.0, 280.0, 800.0, 2400.0]),
    st.integers(1, 12),
)
@SLOW_LOOKS
def test_a_square_wave_moves_the_count_up_and_down_once_a_period(
    model, start_s, low, high, period, start
) -> None:
    loop = ClosedLoop(WIDE, replace(model, start_s=start_s), count=start)
    loop.look_s = 5.0 if period > 20.0 else 2.0

    def wave(now: float) -> list[tuple[DemandKey, float]]:
        return [(key("acme", "a"), high if now % period < period / 2 else low)]

    up, down = WIDE.replicas.up, WIDE.replicas.down
    loop.run(2 * SETTLED_S + WIDE.replicas.max * down.stable, wave)
    settled, periods = loop.now, max(3, math.ceil(1200 / period))
    loop.run(periods * period, wave)
    changes = loop.changes_after(settled)
    assert turns(changes) <= 2 * periods
    if len({count for change in changes for count in change}) <= 2:
        assert len(changes) <= 2 * periods
    if period < up.stable:
        assert changes == []
    if period < down.stable:
        assert len(changes) <= 1
        assert all(after > before for before, after in changes)


@pytest.mark.parametrize(
    ("rate", "work", "seed"),
    [
        (0.05, 0.97, 0),
        (0.05, 2.5, 1),
        (0.05, 2.5, 2),
        (0.5, 1.03, 3),
        (0.5, 6.0, 4),
        (3.6, 0.97, 5),
        (3.6, 0.97, 6),
        (3.6, 2.5, 7),
    ],
)
def test_noise_changes_the_count_at_most_twice_a_day(rate: float, work: float, seed: int) -> None:
    """Poisson arrivals whose mean work is near or far from what the replicas can take."""
    rng = random.Random(f"{rate} {work} {seed}")
    seconds = work * WIDE.replicas.target / rate
    step = StepCost(0.0, seconds / 100, 0.0, 0.0, 0.0)  # 100 prompt tokens
    loop = ClosedLoop(PATIENT, CostModel(step=step), look_s=20.0, generated_tokens=0)
    run_poisson(loop, rng, rate, [key("acme", "a")], 2 * 3600)
    settled = loop.now
    run_poisson(loop, rng, rate, [key("acme", "a")], 86_400)
    assert len(loop.changes_after(settled)) <= 2, loop.changes_after(settled)


def run_poisson(
    loop: ClosedLoop, rng: random.Random, rate: float, sets: list[DemandKey], seconds: float
) -> None:
    """Let requests come by accident, those of the first set most often."""
    weights = [1.0 / (number + 1) for number in range(len(sets))]
    end = loop.now + seconds
    due = loop.now + rng.expovariate(rate)
    while loop.now < end:
        while due <= loop.now + loop.look_s:
            loop.arrive(rng.choices(sets, weights)[0])
            due += rng.expovariate(rate)
        loop.look()


def test_noise_among_adapters_comes_to_rest() -> None:
    """Poisson arrivals over a long tail of adapters, some of which never fit."""
    step = StepCost(0.0, 1e-6, 0.0, 0.0, 0.0)
    loop = ClosedLoop(WIDE, CostModel(step=step), look_s=20.0, generated_tokens=0)
    sets = [key("acme", f"a{number}") for number in range(60)]
    run_poisson(loop, random.Random(3), 2.0, sets, 13 * 3600.0)
    assert len(loop.changes_after(2 * 3600.0)) <= 1, loop.changes_after(2 * 3600.0)


@given(MODELS, STARTS_S, st.integers(1, 30), st.floats(0.1, 5.0), st.sampled_from([20.0, 120.0]))
@SLOW_LOOKS
def test_zero_and_back(model, start_s, requests, rate, zero_after) -> None:
    """One request suffices, however long a start takes and however soon silence ends replicas."""
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=0, max=4, zero_after=zero_after))
    loop = ClosedLoop(policy, replace(model, start_s=start_s), look_s=2.0)
    loop.run(requests / rate + 10, lambda _: [(key("acme", "a"), rate)])
    assert loop.count >= 1
    loop.run(2000, lambda _: [])
    assert loop.count == 0
    answered, came = loop.answered, loop.now
    loop.arrive(key("acme", "a"))
    while not loop.ready:
        assert loop.look() >= 1
    assert loop.now <= came + start_s + 2 * loop.look_s
    loop.arrive(key("acme", "a"))  # again, if it could not wait
    loop.run(10 + 50 * model.step.per_step, lambda _: [])
    assert loop.answered > answered
    loop.run(zero_after + start_s + 400, lambda _: [])
    assert loop.count == 0


@pytest.mark.parametrize(("slower", "rate"), [(0.25, 20.0), (4.0, 2.0)])
@pytest.mark.parametrize("remembers", [True, False])
def test_a_restart_changes_no_count_where_costs_were_only_guessed(
    slower: float, rate: float, remembers: bool
) -> None:
    """Steps take a quarter of what the controller guesses, or four times as long."""
    guess = CostModel()
    costs = (slower * getattr(guess.step, name) for name in STEP_NAMES)
    true = replace(guess, step=StepCost(*costs), start_s=90.0)
    loop, known = ClosedLoop(WIDE, true, prior=guess), ClosedLoop(WIDE, true)
    flows = [(key("acme", "a"), rate)]
    for one in (loop, known):
        one.run(3600, lambda _: flows)
    assert loop.count == known.count
    restarted = loop.now
    loop.restart(remembers=remembers)
    loop.run(1800, lambda _: flows)
    assert loop.changes_after(restarted) == []
    if remembers:
        assert loop.reconciler.costs.fit.model.measured
