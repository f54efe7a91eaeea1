"""Delays are fitted on the first half of a recorded log and judged on the second."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster.domain.ids import ReplicaId, TenantId
from cluster.errors import ConfigError
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.calibrate import COURSES, NUDGE_S, CalibrationErrors, calibrate
from cluster.simulation.delay_search import FITTED
from cluster.simulation.log_figures import percentile, recorded_figures
from cluster.simulation.result import (
    ClusterSample,
    ServedRequest,
    SimulationResult,
    TierCounts,
    TierFound,
)
from cluster.simulation.spec import Delays, SimulationSpec
from cluster.simulation.trace import ServedFacts, TraceRequest

TRUE = Delays(front_s=0.04, hop_s=0.006)
GUESS = Delays(front_s=0.003, hop_s=0.001)
TIERS: tuple[TierFound, ...] = ("device", "device", "device", "host")


def asked(count: int = 400) -> list[TraceRequest]:
    return [TraceRequest(0.5 * n, TenantId("t"), ("a",), 64, 16, 16) for n in range(count)]


def simulated(spec: SimulationSpec) -> SimulationResult:
    """Answer each request by a formula of the delays; it stands for a whole simulation."""
    served = []
    for number, request in enumerate(spec.trace):
        tier = TIERS[number % len(TIERS)]
        service = 0.05 + 0.01 * (number % 7) + (0.15 if tier == "host" else 0.0)
        ttft = spec.delays.front_s + 2 * spec.delays.hop_s + service
        cold = tier != "device"
        served.append(
            ServedRequest(request, "ok", ReplicaId("r"), tier, ttft=ttft, e2e=ttft + 0.4, cold=cold)
        )
    samples = tuple(ClusterSample(float(at), 2, 2, 0, 1, 0) for at in range(200))
    return SimulationResult(tuple(served), samples, (), (), TierCounts(), 0.0, 200.0)


def recorded(requests: Sequence[TraceRequest], delays: Delays = TRUE) -> list[TraceRequest]:
    result = simulated(spec_of(requests, delays))
    return [
        replace(
            one.asked,
            served=ServedFacts("r", one.tier_found, one.ttft, one.e2e or 0.0, one.outcome),
        )
        for one in result.requests
    ]


def with_served(one: TraceRequest, **changes: str) -> TraceRequest:
    assert one.served is not None
    return replace(one, served=replace(one.served, **changes))


def spec_of(trace: Sequence[TraceRequest], delays: Delays = GUESS) -> SimulationSpec:
    return SimulationSpec(trace, ClusterPolicy.fixed(2), [], delays=delays)


def test_delays_are_found_where_the_model_is_right() -> None:
    found = calibrate(spec_of(recorded(asked())), simulated)
    errors = found.errors
    assert abs(errors.ttft_p50) < 0.02
    assert abs(errors.ttft_p99) < 0.02
    assert abs(errors.e2e_p50) < 0.02
    assert errors.whole_resident == 0
    assert not errors.is_red
    wanted = TRUE.front_s + 2 * TRUE.hop_s
    assert found.delays.front_s + 2 * found.delays.hop_s == pytest.approx(wanted, rel=0.1)
    assert found.recorded.answered == found.simulated.answered == 200
    assert found.simulations < 40


def test_the_second_half_is_not_fitted() -> None:
    trace = recorded(asked())
    slow = []
    for one in trace[200:]:
        assert one.served is not None
        assert one.served.ttft is not None
        served = replace(one.served, ttft=one.served.ttft * 3, e2e=one.served.e2e * 3)
        slow.append(replace(one, served=served))
    plain = calibrate(spec_of(trace), simulated)
    changed = calibrate(spec_of([*trace[:200], *slow]), simulated)
    assert changed.delays == plain.delays
    assert changed.errors.ttft_p50 == pytest.approx(1 / 3 - 1, abs=0.01)
    assert changed.errors.is_red
    assert "do not rely on absolute figures" in changed.errors.words[-1]


def test_the_judgement_is_the_mean_of_courses_with_arrivals_a_little_later() -> None:
    trace, starts = recorded(asked()), []

    def undecided(spec: SimulationSpec) -> SimulationResult:
        """Answer as the plain one does, but for a share found cold that differs by course."""
        if len(spec.trace) < len(trace):
            return simulated(spec)
        starts.append([one.at for one in spec.trace])
        cold = len(starts) % 2 == 0
        result = simulated(spec)
        return replace(result, requests=tuple(r._replace(cold=cold) for r in result.requests))

    found = calibrate(spec_of(trace), undecided)
    assert found.errors.whole_resident == 0.5 - found.recorded.whole_resident
    assert len(found.courses) == len(starts) == COURSES
    assert starts[0] == [one.at for one in trace]
    for course in starts[1:]:
        assert course == sorted(course)
        later = [at - begin for at, begin in zip(course, starts[0], strict=True)]
        assert min(later) >= 0
        assert 0 < max(later) <= NUDGE_S + 1e-9


def test_delays_stay_within_their_bounds() -> None:
    trace = recorded(asked(), Delays(front_s=5.0))
    found = calibrate(spec_of(trace), simulated)
    for name, (least, most) in FITTED.items():
        assert least <= getattr(found.delays, name) <= most
    assert found.errors.is_red


def test_the_order_of_the_trace_does_not_matter() -> None:
    trace = recorded(asked())
    assert calibrate(spec_of(trace[::-1]), simulated) == calibrate(spec_of(trace), simulated)


def test_replicas_are_compared_over_time() -> None:
    trace = recorded(asked())
    assert calibrate(spec_of(trace), simulated).errors.replicas is None
    counts = [(0.0, 4), (99.0, 2)]
    assert calibrate(spec_of(trace), simulated, counts).errors.replicas == 0
    counts = [(0.0, 2), (150.0, 4)]
    assert calibrate(spec_of(trace), simulated, counts).errors.replicas == pytest.approx(
        0.25, abs=0.01
    )


@pytest.mark.parametrize(
    ("trace", "half"),
    [
        ([], "first"),
        (asked(), "first"),
        (recorded(asked(60)), "first"),
        ([*recorded(asked()[:200]), *asked()[200:]], "second"),
    ],
)
def test_too_little_to_compare_is_refused(trace: list[TraceRequest], half: str) -> None:
    with pytest.raises(ConfigError, match=f"{half} half has .* expected at least 40"):
        calibrate(spec_of(trace), simulated)


def test_a_simulation_that_answers_nothing_is_red() -> None:
    def idle(spec: SimulationSpec) -> SimulationResult:
        result = simulated(spec)
        return replace(result, requests=tuple(ServedRequest(r, "in_flight") for r in spec.trace))

    found = calibrate(spec_of(recorded(asked())), idle)
    assert found.simulated.answered == 0
    assert found.errors.is_red


def without_answer(one: ServedRequest) -> ServedRequest:
    return one._replace(outcome="overloaded", ttft=None)


def test_a_simulation_that_refuses_slow_requests_is_not_nearer() -> None:
    trace = recorded(asked())

    def refusing(spec: SimulationSpec) -> SimulationResult:
        result = simulated(spec)
        slow = {n for n, one in enumerate(result.requests) if n % 20 == 3}  # from the host
        served = [without_answer(r) if n in slow else r for n, r in enumerate(result.requests)]
        return replace(result, requests=tuple(served))

    found = calibrate(spec_of(trace), refusing)
    assert (found.recorded.answered, found.simulated.answered) == (200, 190)
    assert found.errors.ttft_p99 == math.inf
    assert found.errors.lost == pytest.approx(0.05)
    assert found.errors.is_red
    assert "TTFT p99 never reached in the simulation" in found.errors.words
    assert "answered in the log alone 5.0%, in the simulation alone 0.0%" in found.errors.words


def test_requests_that_the_simulation_alone_answers_are_an_error_of_their_own() -> None:
    trace = recorded(asked())
    failed = [with_served(one, outcome="overloaded") for one in trace[300:350]]
    hung_up = [with_served(one, outcome="cancelled") for one in trace[350:360]]
    found = calibrate(spec_of([*trace[:300], *failed, *hung_up, *trace[360:]]), simulated)
    assert found.errors.won == pytest.approx(50 / 190)  # how the others would end is unknown
    assert found.errors.lost == 0
    assert found.errors.is_red


def test_a_request_without_an_answer_does_not_end_the_fit() -> None:
    trace = recorded(asked(100))

    def refusing(spec: SimulationSpec) -> SimulationResult:
        result = simulated(spec)
        first, *others = result.requests
        return replace(result, requests=(without_answer(first), *others))

    found = calibrate(spec_of(trace), refusing)
    assert found.errors.ttft_p50 == pytest.approx(0.0, abs=0.02)


def test_a_request_that_reaches_no_replica_finds_nothing_there() -> None:
    trace = recorded(asked())

    def unpicked(spec: SimulationSpec) -> SimulationResult:
        result = simulated(spec)
        served = [
            without_answer(r)._replace(replica=None, cold=False, tier_found="")
            if n % 10 == 0
            else r
            for n, r in enumerate(result.requests)
        ]
        return replace(result, requests=tuple(served))

    assert calibrate(spec_of(trace), unpicked).errors.whole_resident == pytest.approx(-0.1)


def test_requests_that_failed_are_not_compared() -> None:
    trace = recorded(asked())
    plain = recorded_figures(trace)
    failed = [with_served(one, outcome="overloaded") for one in trace[:8]]
    assert recorded_figures([*failed, *trace]) == plain


def test_requests_of_which_nothing_was_recorded_are_not_compared() -> None:
    trace = recorded(asked())
    plain = calibrate(spec_of(trace), simulated)
    warm_up = [replace(one, served=None, at=0.0) for one in trace[:8]]
    later = [replace(one, at=one.at + 100) for one in trace]
    found = calibrate(spec_of([*warm_up, *later]), simulated)
    assert found.recorded == plain.recorded
    assert found.simulated.answered == plain.simulated.answered


def test_residents_are_compared_as_the_front_knew_them() -> None:
    trace = recorded(asked())

    def told_late(spec: SimulationSpec) -> SimulationResult:
        result = simulated(spec)
        late = tuple(one._replace(tier_found="device") for one in result.requests)
        return replace(result, requests=late)

    assert calibrate(spec_of(trace), told_late).errors.whole_resident == 0


def test_shares_of_residents_leave_the_base_out() -> None:
    base = [with_served(one, tier_found="base") for one in recorded(asked())]
    figures = recorded_figures([*base, *recorded(asked())])
    assert figures.whole_resident == 0.75
    assert recorded_figures(base).whole_resident == 1


def test_an_error_of_any_kind_and_sign_may_be_the_worst() -> None:
    fine = CalibrationErrors(0.0, 0.0, 0.0, 0.0, 0.0)
    names = ("ttft_p50", "ttft_p99", "e2e_p50", "whole_resident", "replicas", "lost", "won")
    for name in names:
        for error in (0.2, -0.2, math.nan, math.inf):
            assert replace(fine, **{name: error}).is_red
    assert not fine.is_red
    assert replace(fine, ttft_p50=-0.1).words[0] == "TTFT p50 -10.0%"


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3
    assert math.isnan(percentile([], 0.5))
