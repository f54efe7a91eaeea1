"""Laws of the cost fit: what it learns, what it never answers, what it does not depend on."""

import json
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.domain.ids import ReplicaId
from cluster.domain.work import LoadTotals, StepTotals, WorkTotals
from cluster.placement.cost.fit import STEP_FEATURES, STEP_NAMES, CostFit
from cluster.placement.cost.model import CostModel, LoadCost, StepCost

A, B = ReplicaId("a"), ReplicaId("b")
COSTS = st.builds(
    StepCost,
    st.floats(0.01, 0.1),
    st.sampled_from([0.0, 1e-5, 1e-3]),
    st.sampled_from([0.0, 1e-4, 5e-3]),
    st.sampled_from([0.0, 1e-6, 1e-4]),
    st.sampled_from([0.0, 1e-11, 1e-9]),
    st.sampled_from([0.0, 1e-8, 1e-6]),
)


class Engine:
    """Steps of random sizes under a true cost; counts totals as a replica does."""

    def __init__(self, costs: StepCost, seed: int) -> None:
        self.costs = costs
        self.rng = random.Random(seed)
        self.totals = WorkTotals()

    def step(self) -> StepTotals:
        rng = self.rng
        rows, prefill = rng.randint(0, 16), rng.choice((0, 0, rng.randint(1, 512)))
        adapters = rng.randint(0, 8)
        ranks = rng.choice((8, 64)) if adapters else 0
        return StepTotals(
            1,
            prefill,
            rows,
            rows * rng.randint(1, 60) + prefill // 16,
            adapters * 600_000 * ranks,
            (rows + prefill) * ranks,
        )

    def run(self, seconds: float, noise: float = 0.0) -> WorkTotals:
        spent, sums = 0.0, [getattr(self.totals.steps, name) for name in StepTotals.__slots__]
        while spent < seconds:
            step = self.step()
            taken = self.costs.seconds(step) * math.exp(self.rng.gauss(0, noise))
            spent += taken
            counts = (
                step.steps,
                step.prefill_tokens,
                step.decode_rows,
                step.context_blocks,
                step.adapter_bytes,
                step.rank_rows,
            )
            for at, value in enumerate((*counts, taken)):
                sums[at] += value
        self.totals = replace(self.totals, steps=StepTotals(*sums))
        return self.totals


def taught(engine: Engine, seconds: int, noise: float = 0.0) -> CostFit:
    fit = CostFit(CostModel())
    for now in range(seconds + 1):
        fit.observe(A, engine.run(1.0, noise) if now else engine.totals, float(now))
    return fit


def errors_of(model: CostModel, engine: Engine, windows: int = 20) -> list[float]:
    """Return the relative errors over windows of some seconds, the least first."""
    errors = []
    for _ in range(windows):
        before = engine.totals.steps
        done = engine.run(2.0).steps.since(before)
        errors.append(abs(model.step.seconds(done) / done.seconds - 1))
    return sorted(errors)


def is_sane(model: CostModel) -> bool:
    values = [
        *(getattr(model.step, name) for name in STEP_NAMES),
        *(v for cost in (model.host_load, model.disk_load) for v in (cost.latency, cost.per_byte)),
        model.start_s,
        *model.slowness.values(),
    ]
    return all(math.isfinite(value) and value >= 0 for value in values) and all(
        0.25 <= value <= 4 for value in model.slowness.values()
    )


def restored(prior: CostModel, state) -> CostFit:
    fit = CostFit(prior)
    fit.restore(state)
    return fit


def test_each_cost_multiplies_its_own_count():
    counts = [name.removesuffix("s") for name in STEP_FEATURES]
    assert counts == [name.removeprefix("per_") for name in STEP_NAMES]


@settings(max_examples=6, deadline=None)
@given(COSTS, st.integers(0, 10**6))
def test_any_true_model_is_recovered(costs, seed):
    engine = Engine(costs, seed)
    fit = taught(engine, 600)
    assert fit.describe()["rules"] == "fit"
    assert errors_of(fit.model, engine)[-1] < 0.1
    assert is_sane(fit.model)


@settings(max_examples=10, deadline=None)
@given(COSTS, st.integers(0, 10**6))
def test_a_minute_is_enough_for_a_first_idea(costs, seed):
    engine = Engine(costs, seed)
    assert errors_of(taught(engine, 60, noise=0.1).model, engine)[10] < 0.25


def test_its_parts_are_found_where_steps_differ():
    costs = StepCost(0.02, 8e-4, 1e-3, 2e-5, 2e-10, 1e-7)
    fitted = taught(Engine(costs, 1), 1800, noise=0.02).model.step
    for name in ("per_step", "per_prefill_token", "per_decode_row", "per_context_block"):
        assert getattr(fitted, name) == pytest.approx(getattr(costs, name), rel=0.15)


def test_before_half_a_minute_the_prior_rules():
    prior = CostModel(step=StepCost(0.5, 0.1, 0.1))
    engine = Engine(StepCost(), 0)
    fit = CostFit(prior, "profile")
    fit.observe(A, engine.totals, 0.0)
    fit.observe(A, engine.run(20.0), 20.0)
    assert fit.model.step == prior.step
    assert fit.describe()["rules"] == "profile"
    fit.observe(A, engine.run(20.0), 40.0)
    assert fit.model.step != prior.step
    assert fit.describe()["rules"] == "fit"


def test_what_was_measured_once_is_not_given_up_for_a_guess():
    """Under light load a second of steps in a minute is left of what was seen."""
    for source, ruler in (("default", "fit"), ("profile", "profile")):
        fit, totals = CostFit(CostModel(), source), StepTotals()
        for now in range(4000):
            fit.observe(A, WorkTotals(totals), float(now))
            steps = 100 if now < 60 else 1
            totals = replace(
                totals, steps=totals.steps + steps, seconds=totals.seconds + 0.007 * steps
            )
        assert fit.describe()["step"]["observed_s"] < 10.0
        assert fit.describe()["rules"] == ruler
        assert fit.model.measured
    assert fit.model.step.per_step == CostModel().step.per_step


@pytest.mark.parametrize("source", ["profile", "default"])
def test_where_nothing_explains_the_seconds_a_profile_rules_and_a_default_does_not(source):
    rng = random.Random(0)
    fit, totals = CostFit(CostModel(), source), StepTotals()
    for now in range(300):
        fit.observe(A, WorkTotals(totals), float(now))
        spent = rng.choice((0.01, 0.01, 0.01, 10.0))
        totals = replace(totals, steps=totals.steps + 1, seconds=totals.seconds + spent)
    assert fit.describe()["step"]["r2"] < 0.8
    if source == "profile":
        assert fit.describe()["rules"] == "profile"
        assert fit.model.step == StepCost()
    else:
        assert fit.model.step.per_step == pytest.approx(totals.seconds / totals.steps, rel=0.1)


def test_the_first_totals_only_tell_where_they_stand():
    fit = CostFit(CostModel())
    fit.observe(A, WorkTotals(StepTotals(10**6, seconds=10**6)), 0.0)
    assert fit.describe()["step"]["observed_s"] == 0


def test_totals_of_one_second_or_ten_teach_the_same():
    apart = []
    for every in (1, 10):
        engine, fit = Engine(StepCost(0.01, 2e-4, 3e-3), 5), CostFit(CostModel())
        for now in range(601):
            engine.run(1.0)
            if now % every == 0:
                fit.observe(A, engine.totals, float(now))
        apart.append(fit)
    one, ten = (fit.model.step for fit in apart)
    work = StepTotals(10, 1000, 50, 500, 10**7, 5000)
    assert one.seconds(work) == pytest.approx(ten.seconds(work), rel=0.1)


@settings(max_examples=8, deadline=None)
@given(COSTS, st.permutations(range(4)), st.integers(0, 100))
def test_the_order_of_replicas_changes_nothing(costs, order, seed):
    def fitted(order) -> CostFit:
        engines = [Engine(costs, seed + n) for n in range(4)]
        fit = CostFit(CostModel())
        for now in range(40):
            found = [engine.run(0.5 * (n + 1)) for n, engine in enumerate(engines)]
            for n in order:
                fit.observe(ReplicaId(f"r{n}"), found[n], float(now))
        return fit

    one, other = fitted(range(4)).model, fitted(order).model
    for name in STEP_NAMES:
        assert getattr(one.step, name) == pytest.approx(getattr(other.step, name), rel=1e-6)
    assert one.slowness == pytest.approx(other.slowness, rel=1e-6)


def test_a_change_of_speed_is_followed():
    engine = Engine(StepCost(), 3)
    fit = taught(engine, 1800, noise=0.05)
    engine.costs = StepCost(*(2 * getattr(engine.costs, name) for name in STEP_NAMES))
    work = StepTotals(10, 1000, 50, 0, 10**7)
    before = fit.model.step.seconds(work)
    for now in range(1801, 1861):
        fit.observe(A, engine.run(1.0), float(now))
    within_a_minute = fit.model.step.seconds(work) * fit.model.slowness_of(A)
    assert within_a_minute == pytest.approx(2 * before, rel=0.1)
    for now in range(1861, 2401):
        fit.observe(A, engine.run(1.0), float(now))
    assert fit.model.step.seconds(work) >= 1.3 * before  # an hour later it would be there
    assert fit.model.step.seconds(work) * fit.model.slowness_of(A) == pytest.approx(
        2 * before, rel=0.1
    )


def test_a_slow_replica_is_told_apart_and_forgiven():
    engines = {A: Engine(StepCost(), 1), B: Engine(StepCost(), 2)}
    fit = CostFit(CostModel())
    for now in range(600):
        for name, engine in engines.items():
            fit.observe(name, engine.run(1.0), float(now))
    engines[B].costs = StepCost(*(3 * getattr(StepCost(), name) for name in STEP_NAMES))
    for now in range(600, 630):
        for name, engine in engines.items():
            fit.observe(name, engine.run(1.0), float(now))
    assert fit.model.slowness_of(B) > 2.2
    assert fit.model.slowness_of(A) == pytest.approx(1, abs=0.15)
    for now in range(630, 730):  # nothing is heard of its steps: it may have recovered
        fit.observe(B, engines[B].totals, float(now))
    assert fit.model.slowness_of(B) == pytest.approx(1, abs=0.05)
    fit.remove_replica(B)
    assert fit.model.slowness_of(B) == 1


def test_hours_without_work_forget_nothing():
    engine = Engine(StepCost(0.002, 1e-5, 1e-4), 3)
    fit = taught(engine, 600)
    before = fit.model.step
    for now in range(1000, 50_000, 1000):
        fit.observe(A, engine.totals, float(now))
    assert fit.model.step == before
    fit.observe(A, engine.run(1.0), 50_001.0)
    assert fit.model.step.per_step == pytest.approx(before.per_step, rel=0.1)


WILD = st.one_of(
    st.integers(0, 3),
    st.integers(0, 10**4),
    st.sampled_from([10**9, 10**17, 10**18, 10**30, 10**400]),
)
WILD_SECONDS = st.one_of(
    st.floats(0, 10),
    st.sampled_from([0.0, 1e-320, 1e-12, 1e12, 1e300, math.inf]),
)
WILD_TOTALS = st.builds(
    WorkTotals,
    st.builds(StepTotals, WILD, WILD, WILD, WILD, WILD, WILD, WILD_SECONDS),
    st.builds(LoadTotals, WILD, WILD, WILD_SECONDS),
    st.builds(LoadTotals, WILD, WILD, WILD_SECONDS),
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([A, B]), WILD_TOTALS, st.floats(-1e6, 1e6), st.booleans()),
        max_size=30,
    ),
    st.sampled_from([CostModel(), CostModel(step=StepCost(0, 0, 0, 0, 0, 0))]),
)
def test_nothing_that_is_told_makes_it_answer_nonsense(told, prior):
    fit = CostFit(prior)
    for replica_id, totals, now, gone in told:
        fit.observe(replica_id, totals, now)
        assert is_sane(fit.model)
        if gone:
            fit.remove_replica(replica_id)
    json.dumps(fit.describe(), allow_nan=False)
    assert is_sane(restored(prior, json.loads(json.dumps(fit.to_state()))).model)


@pytest.mark.parametrize("constant", range(6))
def test_a_feature_that_never_changes_does_no_harm(constant):
    names = [name for name in StepTotals.__slots__ if name != "seconds"]

    class Constant(Engine):
        def step(self):
            return replace(super().step(), **{names[constant]: 0 if constant else 1})

    engine = Constant(StepCost(0.02, 1e-3, 1e-3, 1e-5, 1e-10, 1e-7), 0)
    fit = taught(engine, 300, noise=0.05)
    assert is_sane(fit.model)
    assert errors_of(fit.model, engine)[-1] < 0.2


def test_steps_that_are_all_alike_are_predicted_all_the_same():
    class Alike(Engine):
        def step(self):
            return StepTotals(1, 0, 8, 100, 10**7, 64)

    engine = Alike(StepCost(0.004, 0, 2e-4), 0)
    fit = taught(engine, 120, noise=0.02)
    assert errors_of(fit.model, engine)[-1] < 0.1
    assert is_sane(fit.model)


def test_late_totals_are_not_taken_for_a_new_life():
    engine = Engine(StepCost(0.003, 1e-4, 1e-3), 1)
    fit = taught(engine, 120)
    old, before = engine.totals, fit.describe()["step"]["observed_s"]
    engine.run(5.0)
    fit.observe(A, engine.totals, 121.0)
    fit.observe(A, old, 121.5)
    after = fit.describe()["step"]["observed_s"]
    assert after <= before + 6


def test_loads_of_both_tiers_are_fitted_apart():
    true = {"host": LoadCost(0.004, 2e-9), "disk": LoadCost(0.2, 3e-8)}
    rng, fit = random.Random(0), CostFit(CostModel())
    sums = {tier: LoadTotals() for tier in true}
    for now in range(200):
        fit.observe(A, WorkTotals(StepTotals(), sums["host"], sums["disk"]), float(now))
        for tier, cost in true.items():
            nbytes = rng.choice((5, 10, 80)) * 10**6
            before = sums[tier]
            sums[tier] = LoadTotals(
                before.loads + 1, before.nbytes + nbytes, before.seconds + cost.seconds(nbytes)
            )
    for nbytes in (5 * 10**6, 80 * 10**6):
        found = fit.model
        assert found.host_load.seconds(nbytes) == pytest.approx(
            true["host"].seconds(nbytes), rel=0.1
        )
        assert found.disk_load.seconds(nbytes) == pytest.approx(
            true["disk"].seconds(nbytes), rel=0.1
        )
    assert fit.describe()["loads"]["disk"]["rules"] == "fit"


def test_loads_that_differ_a_lot_are_known_by_their_mean():
    rng, fit, loads = random.Random(0), CostFit(CostModel()), LoadTotals()
    for now in range(300):
        fit.observe(A, WorkTotals(host_loads=loads), float(now))
        loads = LoadTotals(
            loads.loads + 1, loads.nbytes + 10**7, loads.seconds + rng.choice((0.001, 0.001, 0.007))
        )
    assert fit.describe()["loads"]["host"]["r2"] < 0.8
    assert fit.model.host_load.seconds(10**7) == pytest.approx(0.003, rel=0.2)


def test_few_loads_leave_the_prior():
    fit = CostFit(CostModel())
    fit.observe(A, WorkTotals(), 0.0)
    fit.observe(A, WorkTotals(disk_loads=LoadTotals(3, 3 * 10**7, 9.0)), 1.0)
    assert fit.model.disk_load == CostModel().disk_load


def test_a_start_is_as_slow_as_nine_in_ten_of_the_last():
    fit = CostFit(CostModel(start_s=33.0))
    assert fit.model.start_s == 33
    fit.replace_starts([5.0])
    assert fit.model.start_s == 5
    fit.replace_starts(map(float, range(20)))
    assert fit.model.start_s == 18  # of 10 to 19
    fit.replace_starts([7.0, math.nan, math.inf, -1.0])
    assert fit.model.start_s == 7


def test_another_prior_leaves_what_was_observed():
    engine = Engine(StepCost(), 0)
    fit = taught(engine, 300)
    observed = fit.describe()["step"]["observed_s"]
    fit.replace_prior(CostModel(start_s=7.0), "profile")
    assert fit.describe()["step"]["observed_s"] == observed
    assert (fit.describe()["prior"], fit.model.start_s) == ("profile", 7.0)


def test_it_continues_from_its_state():
    engine = Engine(StepCost(0.01, 1e-4, 1e-3), 0)
    fit = taught(engine, 300)
    again = restored(CostModel(), fit.to_state())
    assert again.model.step == fit.model.step
    assert again.to_state() == fit.to_state()


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"steps": None, "loads": 3},
        {"steps": {"prior": [1.0]}},
        {"loads": {"tape": {}}},
    ],
)
def test_a_broken_state_is_as_good_as_none(state):
    assert restored(CostModel(), state).model.step == StepCost()


def test_a_state_of_another_prior_is_not_used():
    fit = taught(Engine(StepCost(0.3), 0), 300)
    prior = CostModel(step=StepCost(0.001))
    assert restored(prior, fit.to_state()).model.step == prior.step


def test_what_was_observed_before_the_state_came_is_kept():
    engine = Engine(StepCost(0.01, 1e-4, 1e-3), 0)
    whole = taught(engine, 300)
    engine = Engine(StepCost(0.01, 1e-4, 1e-3), 0)
    early = taught(engine, 200)
    late = CostFit(CostModel())
    for now in range(200, 300):
        late.observe(A, engine.totals, float(now))
        engine.run(1.0)
    late.observe(A, engine.totals, 300.0)
    late.restore(early.to_state())
    assert late.model.step.per_step == pytest.approx(whole.model.step.per_step, rel=0.02)
    assert late.describe()["step"]["observed_s"] == pytest.approx(
        whole.describe()["step"]["observed_s"], rel=0.02
    )
