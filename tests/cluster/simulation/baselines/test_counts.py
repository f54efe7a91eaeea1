"""The counts of other systems move as those systems' own documents say."""

import itertools
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.placement.cost.model import CostModel
from cluster.placement.demand.demand import Demand
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy
from cluster.placement.scaling.count import ScaleInputs
from cluster.simulation.baselines.counts import FixedCount, PodAutoscalerCount, RayServeCount
from cluster.simulation.spec import ScaleRule

POLICY = ClusterPolicy(replicas=ReplicasPolicy(min=1, max=20))


def inputs(target: int, ready: int, in_flight: int) -> ScaleInputs:
    return ScaleInputs(
        policy=POLICY,
        demand=Demand(),
        model=CostModel(),
        shape=None,
        adapter_bytes={},
        target=target,
        ready=ready,
        starting_for_s=None,
        backlog_s=0.0,
        in_flight=in_flight,
        predicted_ttft={},
        cold=None,
        least=0,
        complete=True,
        wall=datetime(2026, 1, 1, tzinfo=UTC),
    )


def run(rule: ScaleRule, load: list[int], start: int = 1) -> list[int]:
    """Give a rule one count of requests each second; replicas are ready at once."""
    counts, target = [], start
    for second, in_flight in enumerate(load):
        target = rule.count(inputs(target, target, in_flight), in_flight, float(second))
        counts.append(target)
    return counts


def test_a_fixed_count_stays() -> None:
    assert run(FixedCount(3), [0, 100, 0]) == [3, 3, 3]


def test_ray_serve_goes_up_after_its_delay_and_not_before() -> None:
    counts = run(RayServeCount(look_back_s=0.0), [8] * 32)
    assert counts[:30] == [1] * 30
    assert counts[30] == 4  # 8 requests at 2 a replica


def test_ray_serve_looks_back_over_its_window() -> None:
    """An average over 30 s of a step from 0 to 8 has half of it after 15 s."""
    quick = run(RayServeCount(upscale_delay_s=0.0), [0] * 30 + [8] * 30)
    assert quick[30] < quick[45] < quick[59]
    assert quick[59] == 4


def test_a_break_in_the_wish_starts_ray_serves_delay_again() -> None:
    load = [8] * 20 + [2] + [8] * 20
    assert set(run(RayServeCount(look_back_s=0.0), load)) == {1}


def test_ray_serve_goes_down_only_after_ten_minutes() -> None:
    counts = run(RayServeCount(look_back_s=0.0), [2] * 602, start=4)
    assert counts[599] == 4
    assert counts[600] == 1


def test_a_small_downscaling_factor_still_lets_go_of_one() -> None:
    rule = RayServeCount(look_back_s=0.0, downscale_delay_s=0.0, downscaling_factor=0.1)
    assert run(rule, [2] * 4, start=4) == [3, 2, 1, 1]


def test_the_in_flight_signal_swings_where_a_replica_shortens_the_queue() -> None:
    """Constant arrivals, work 1.8 replicas: what is in flight falls as replicas are added."""
    rule = RayServeCount(target=8, look_back_s=10, upscale_delay_s=10, downscale_delay_s=60)
    target, counts = 1, []
    for second in range(3600):
        in_flight = {1: 40, 2: 6}.get(target, 3)
        target = rule.count(inputs(target, target, in_flight), in_flight, float(second))
        counts.append(target)
    assert sum(a != b for a, b in itertools.pairwise(counts)) > 20


@pytest.mark.parametrize(("in_flight", "count"), [(40, 4), (43, 4), (45, 5), (200, 8)])
def test_the_pod_autoscaler_has_a_tolerance_and_a_ceiling(in_flight: int, count: int) -> None:
    """4 replicas of target 10: up to 44 is near enough; 200 asks for 20, and gets 4 more."""
    assert run(PodAutoscalerCount(target=10), [in_flight], start=4) == [count]


def test_the_pod_autoscaler_goes_down_to_the_highest_wish_of_five_minutes() -> None:
    counts = run(PodAutoscalerCount(), [12] * 16 + [2] * 400, start=4)
    up_at = 0
    assert counts[up_at] == 6
    fell = next(second for second, count in enumerate(counts) if count < 6)
    assert 300 <= fell - 15 <= 315
    assert counts[-1] == 1


def test_the_pod_autoscaler_decides_each_15_seconds() -> None:
    counts = run(PodAutoscalerCount(), [2] + [40] * 20)
    assert counts[:15] == [1] * 15
    assert counts[15] == 5  # 4 more in 15 s


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=200),
    st.sampled_from([RayServeCount, PodAutoscalerCount]),
)
def test_counts_stay_within_the_policys_bounds(
    load: list[int], rule: type[RayServeCount] | type[PodAutoscalerCount]
) -> None:
    assert all(1 <= count <= 20 for count in run(rule(), load))


@given(st.integers(0, 100), st.sampled_from([RayServeCount, PodAutoscalerCount]))
def test_nothing_ready_yet_divides_by_nothing(
    in_flight: int, rule: type[RayServeCount] | type[PodAutoscalerCount]
) -> None:
    assert rule().count(inputs(2, 0, in_flight), in_flight, 0.0) == 2
