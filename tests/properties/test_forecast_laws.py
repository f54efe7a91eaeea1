"""A forecast may ask for more replicas, never for fewer, whatever loads and clocks it is shown."""

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.placement.demand.forecast import Forecast
from cluster.placement.demand.season import DayLength
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy
from cluster.placement.scaling.wishes import needs_of
from tests.support.scale_loop import MODELS, MONDAY, SHAPE, ScaleLoop, key

SHORT_DAY = DayLength(3600.0, 72)
RULES = st.sampled_from(["trend", "daily"])
PHASES = st.lists(
    st.tuples(st.floats(0.0, 20.0), st.integers(1, 40)), min_size=2, max_size=12
)  # rate, looks


def loop_of(forecast: str, model: object) -> ScaleLoop:
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=1, max=12, forecast=forecast))
    return ScaleLoop(policy, model, look_s=5.0)


@given(RULES, MODELS, PHASES, st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_a_forecast_never_asks_for_fewer(rule, model, phases, days) -> None:
    """At every look the wishes without a forecast are among those with one."""
    with_one, without = loop_of(rule, model), loop_of("off", model)
    for rate, looks in phases * days:
        for _ in range(looks):
            for loop in (with_one, without):
                loop.flow(key("acme", "a"), rate)
                loop.look()
            ours = with_one.inputs(with_one.rates.demand(with_one.now))
            plain, seen = needs_of(ours, SHAPE), with_one.last
            assert seen is not None
            assert seen.wishes["load"] == plain.load(1).count or not model.measured
            assert seen.wishes["forecast"] >= 0
            asked = max(seen.wishes.values())
            assert asked >= max(n for name, n in seen.wishes.items() if name != "forecast")


@given(
    st.lists(
        st.tuples(st.floats(0.0, 50.0), st.floats(0.5, 30.0), st.floats(-90_000, 90_000)),
        min_size=40,
        max_size=120,
    ),
    RULES,
)
@settings(max_examples=60, deadline=None)
def test_any_loads_and_clocks_give_a_number(looks, rule) -> None:
    forecast, now, skew = Forecast(SHORT_DAY), 0.0, 0.0
    for at, (rate, seconds, step) in enumerate(looks):
        now += seconds
        skew += step if at % 10 == 0 else 0.0
        forecast.observe(rate, 0.3 * rate, now, now + skew, 30.0)
        found = forecast.expect(rule, 30.0)
        assert found is None or 0.0 <= found.load < 1000.0


@given(st.lists(st.floats(-86_400, 86_400), min_size=1, max_size=4), RULES)
@settings(max_examples=20, deadline=None)
def test_a_clock_that_steps_changes_no_count(steps, rule) -> None:
    loop = loop_of(rule, ScaleLoop(ClusterPolicy()).model)
    loop.scaler = type(loop.scaler)(Forecast(SHORT_DAY))
    counts = []
    skew = 0.0
    for look in range(900):
        if look >= 700 and (look - 700) % 40 == 0 and steps:
            skew += steps.pop()
        loop.flow(key("acme", "a"), 4.0)
        wall = MONDAY + timedelta(seconds=loop.now + skew)
        counts.append(loop.look(wall=wall))
    assert len(set(counts[699:])) == 1
