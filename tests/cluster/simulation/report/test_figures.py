"""Figures of a run, counted by hand."""

from collections.abc import Callable, Sequence

import pytest

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.policy import ClusterPolicy, TierPolicy
from cluster.simulation.report.figures import Figure, reason_kind, run_figures
from cluster.simulation.report.promises import UNPROMISED, keeps_promise, tier_name
from cluster.simulation.report.series import run_series
from cluster.simulation.result import ServedRequest, SimulationResult

Serve = Callable[..., ServedRequest]
MakeResult = Callable[[Sequence[ServedRequest]], SimulationResult]
POLICY = ClusterPolicy(
    tiers={"gold": TierPolicy(ttft=0.5, itl=0.08), "batch": TierPolicy(ttft=60, itl=1)},
    tenants={"acme": "gold", "night-*": "batch"},
)


def named(figures: dict[Figure, float], section: str) -> dict[str, float]:
    return {figure.name: value for figure, value in figures.items() if figure.section == section}


def test_a_tenants_tier_is_that_of_the_first_pattern_that_matches() -> None:
    assert tier_name(POLICY, TenantId("acme")) == "gold"
    assert tier_name(POLICY, TenantId("night-7")) == "batch"
    assert tier_name(POLICY, TenantId("globex")) == UNPROMISED


@pytest.mark.parametrize(
    ("tenant", "ttft", "itl", "outcome", "kept"),
    [
        ("acme", 0.5, 0.08, "ok", True),
        ("acme", 0.51, 0.08, "ok", False),
        ("acme", 0.5, 0.09, "ok", False),
        ("acme", 0.1, None, "ok", True),
        ("night-1", 59.0, 0.9, "ok", True),
        ("globex", 500.0, 9.0, "ok", True),
        ("globex", None, None, "overloaded", False),
        ("acme", 0.1, 0.01, "in_flight", False),
    ],
)
def test_a_promise_is_kept_by_both_times_and_the_end(
    serve: Serve, tenant: str, ttft: float | None, itl: float | None, outcome: str, kept: bool
) -> None:
    assert keeps_promise(serve(tenant, ttft=ttft, itl=itl, outcome=outcome), POLICY) is kept


def test_figures_of_all_requests(serve: Serve, make_result: MakeResult) -> None:
    requests = [serve(ttft=0.1 * number) for number in range(1, 9)]
    requests += [serve(ttft=None, itl=None, outcome="overloaded"), serve(outcome="in_flight")]
    found = named(run_figures(make_result(requests), POLICY), "all requests")
    assert found["requests"] == 10
    assert found["TTFT p50"] == pytest.approx(0.4)  # of 0.1, 0.1, 0.2 ... 0.8: the fifth of nine
    assert found["TTFT p99"] == pytest.approx(0.8)
    assert found["SLO attained"] == 0.5
    assert found["refused or failed"] == 0.1
    assert found["unfinished at the end"] == 0.1


def test_tiers_have_sections_only_where_there_are_several(
    serve: Serve, make_result: MakeResult
) -> None:
    alone = run_figures(make_result([serve(), serve()]), POLICY)
    assert not any(figure.section.startswith("tier ") for figure in alone)
    both = run_figures(make_result([serve(), serve("night-1", ttft=3.0)]), POLICY)
    assert named(both, "tier gold")["TTFT p99"] == 0.1
    assert named(both, "tier batch")["TTFT p99"] == 3.0
    sections = list(dict.fromkeys(figure.section for figure in both))
    assert sections.index("tier gold") < sections.index("tier batch")


def test_figures_of_adapters_and_replicas(serve: Serve, make_result: MakeResult) -> None:
    requests = [serve(), serve(tier="disk", cold=True), serve(tier="base", adapters=())]
    figures = run_figures(make_result(requests), POLICY, aliases={AdapterDigest("d-sql"): "sql"})
    adapters = named(figures, "adapters")
    assert adapters["found whole on the device"] == 0.5
    assert adapters["sent where a member was missing"] == pytest.approx(1 / 3)
    assert adapters["loads from disk"] == 2
    assert adapters["loaded from host memory"] == 6
    assert adapters["moved by the controller"] == 2
    assert named(figures, "moves by reason") == {"prefetch: copies n -> n": 1}
    replicas = named(figures, "replicas")
    assert replicas["replica-hours"] == pytest.approx(150 / 3600)
    assert replicas["changes of the count"] == 1
    assert replicas["most at once"] == 2


def test_the_worst_tenant_is_one_with_enough_requests(
    serve: Serve, make_result: MakeResult
) -> None:
    requests = [serve("acme", tokens=30)] * 20 + [serve("night-1", ttft=70.0, tokens=10)] * 20
    requests += [serve("rare", ttft=500.0, tokens=1)]
    found = named(run_figures(make_result(requests), POLICY), "tenants")
    assert found["worst tenant's SLO attained"] == 0
    assert found["worst tenant's TTFT p95"] == 70
    assert found["Jain index of tokens by weight"] == pytest.approx(801**2 / (3 * 400_001))


def test_weights_make_shares_even(serve: Serve, make_result: MakeResult) -> None:
    requests = [serve("acme", tokens=30), serve("globex", tokens=10)]
    tiers = {"gold": TierPolicy(weight=3), "usual": TierPolicy()}
    weighted = ClusterPolicy(tiers=tiers, tenants={"acme": "gold", "*": "usual"})
    figures = run_figures(make_result(requests), weighted)
    assert named(figures, "tenants")["Jain index of tokens by weight"] == pytest.approx(1)


def test_weights_of_the_tenants_file_make_shares_even(
    serve: Serve, make_result: MakeResult
) -> None:
    requests = [serve("acme", tokens=30), serve("globex", tokens=10)]
    own = {TenantId("acme"): 3.0}
    figures = run_figures(make_result(requests), ClusterPolicy(), own_weights=own)
    assert named(figures, "tenants")["Jain index of tokens by weight"] == pytest.approx(1)


def test_a_run_without_requests_has_no_latencies(make_result: MakeResult) -> None:
    figures = run_figures(make_result([]), POLICY)
    assert named(figures, "all requests") == {}
    assert named(figures, "replicas")["replica-hours"] > 0


def test_reasons_lose_figures_and_names() -> None:
    assert reason_kind("copies 1 -> 12: sql 2.1/s") == "copies n -> n"
    names = ["sql", "sql-2", "cron"]
    assert reason_kind("room for sql-2, cron", names) == "room for …"
    assert reason_kind("over the replica's capacity", names) == "over the replica's capacity"


def test_the_map_sums_the_time_in_each_plan(serve: Serve, make_result: MakeResult) -> None:
    series = run_series(make_result([serve()]), {AdapterDigest("d-sql"): "sql"})
    assert series.adapters == ("sql",)
    assert series.replicas == ("r0", "r1")
    assert series.held == (pytest.approx((0.5, 0.25)),)
    assert series.wanted == ((0.0, 1), (50.0, 2), (99.0, 2))
    assert sum(rate for _, rate in series.arrivals) * 100 / len(series.arrivals) == pytest.approx(1)
