"""The replicas that the adapters asked for need."""

from dataclasses import replace

from cluster.domain.ids import AdapterDigest
from cluster.placement.demand.demand import Demand, DemandRate
from cluster.placement.scaling.count import CountScaler
from cluster.placement.scaling.memory import PoolShape, cold_curve
from cluster.placement.scaling.wishes import needs_of
from tests.support.scale_looks import COSTLY, demand, inputs, settle
from tests.support.scale_loop import SHAPE


def test_a_working_set_that_does_not_fit_adds_replicas_and_says_so() -> None:
    rates = [demand(0.05, f"a{number}") for number in range(32)]
    sizes = {AdapterDigest(f"a{number}"): 10_000_000 for number in range(32)}
    given = replace(inputs(*rates, target=3), adapter_bytes=sizes)
    decision = settle(CountScaler(), given, 11)
    assert decision.count == 5  # 40 slots, of which 4 are kept free
    assert decision.reason == (
        "3 -> 5: working set 320 MB in 32 sets, pools 240 MB and 24 slots, 31 % cold above 2 %"
    )
    assert needs_of(given, SHAPE).load(1).count == 2


def tailed(share: float, hot: int = 4, tail: int = 10_000) -> tuple[DemandRate, ...]:
    """Return 10 requests a second, a share of them on a long tail of adapters."""
    rates = [
        demand(10.0 * (1.0 - share) / hot, f"hot{number}", prompt=0.0) for number in range(hot)
    ]
    each = 10.0 * share / tail
    return (*rates, *(demand(each, f"tail{number}", prompt=0.0) for number in range(tail)))


def test_a_tail_that_no_count_can_hold_adds_none_for_fractions_of_a_percent() -> None:
    given = inputs(*tailed(0.03))
    decision = CountScaler().decide(given, 0.0)
    assert (decision.count, decision.wishes["memory"]) == (1, 1)
    assert decision.reason == (
        "1: no count up to 12 brings cold requests below 2 %, and 1 comes within 2 points of the "
        "best"
    )
    scaler, high = CountScaler(), replace(given, target=12, ready=12)
    counts = [scaler.decide(high, at).count for at in (0.0, 150.0, 299.0, 300.0)]
    assert counts == [12, 12, 12, 11], "nor does it keep any"


def test_where_no_count_suffices_what_comes_near_the_best_is_asked_for() -> None:
    given = inputs(*tailed(0.03, hot=24, tail=2_000))
    assert settle(CountScaler(), given, 11).count == 4, "24 fit into 32 slots, 3 of them spare"
    even = [demand(0.1, f"a{number}", prompt=0.0) for number in range(120)]
    decision = settle(CountScaler(), inputs(*even, target=8), 60)
    assert decision.count == 12, "each replica holds 6 % of the requests' adapters"


def test_adapters_that_fit_are_moved_and_add_nothing() -> None:
    rates = [demand(0.05, f"a{number}") for number in range(16)]
    given = replace(inputs(*rates, target=3), cold=0.5)
    assert needs_of(given, SHAPE).memory(3).reason == "adapters fit"
    assert settle(CountScaler(), given, 60).count == 3


def test_a_measured_share_above_the_predicted_one_counts_up_to_three_times() -> None:
    rates = [demand(1.0, f"a{number}") for number in range(8)]
    rates += [demand(0.05, f"b{number}") for number in range(3)]
    given = replace(inputs(*rates, target=1), cold=0.017)
    (few, many) = (needs_of(replace(given, cold=cold), SHAPE) for cold in (None, 0.9))
    assert (few.factor, many.factor) == (1.0, 3.0)
    assert few.curve.cold(1) < 0.02 < 3.0 * many.curve.cold(1)
    assert (few.memory(1).count, many.memory(1).count) == (1, 2)


def test_an_adapter_that_fits_nowhere_adds_nothing() -> None:
    given = replace(
        inputs(demand(1.0, "huge"), demand(0.1, "a")),
        adapter_bytes={AdapterDigest("huge"): 2 * SHAPE.adapter_bytes},
    )
    assert needs_of(given, SHAPE).memory(1).count == 1


def test_big_adapters_do_not_share_a_pool() -> None:
    rates = [demand(0.1, f"a{number}") for number in range(6)]
    for share, pools in ((0.6, 6), (0.4, 3), (0.1, 1)):
        sizes = {AdapterDigest(f"a{number}"): int(share * 1e6) for number in range(6)}
        curve = cold_curve(Demand(tuple(rates)), PoolShape(32, 1_000_000), sizes)
        assert curve.least(0.0, 40) == pools


def test_members_that_sets_share_count_once() -> None:
    rates = [demand(1.0, "a", f"b{number}") for number in range(7)]
    curve = cold_curve(Demand(tuple(rates)), PoolShape(8, 1), {})
    assert curve.cold(1) == 0.0


def test_memory_is_known_without_costs() -> None:
    rates = [demand(0.05, f"a{number}") for number in range(32)]
    given = replace(inputs(*rates, target=3), model=replace(COSTLY, measured=False))
    assert settle(CountScaler(), given, 11).count == 5
