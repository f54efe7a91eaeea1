"""Reports of a front: nothing is lost with a report, an answer or a controller."""

from cluster.domain.ids import ReplicaId, TenantId
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.demand.demand import DemandKey
from cluster.placement.exchange import FrontId, FrontOrders
from cluster.placement.front_reporter import FrontReporter
from cluster.placement.picking.recent_picks import LAST_PICKS, PICK_AGE_S, RecentPicks

KEY = DemandKey(TenantId("acme"), ())


def reporter_of(counters: DemandCounters) -> FrontReporter:
    return FrontReporter(FrontId("f"), counters, RecentPicks())


def test_a_death_that_is_noted_while_a_report_is_under_way_is_in_the_next_one() -> None:
    reporter = reporter_of(DemandCounters())
    first = reporter.compose(0, 1.0)
    reporter.note_dead(ReplicaId("r1"))
    reporter.take(FrontOrders(first.sequence, 1))
    second = reporter.compose(0, 2.0)
    assert (first.dead, second.dead) == ((), ("r1",))
    reporter.take(FrontOrders(second.sequence, 1))
    assert reporter.compose(0, 3.0).dead == ()


def test_each_other_epoch_is_sent_all_totals_once() -> None:
    counters = DemandCounters()
    reporter = reporter_of(counters)
    counters.arrive(KEY, 5)
    for epoch, needs_all in ((0, False), (0, False), (1, True), (1, False), (3, True)):
        report = reporter.compose(0, 1.0)
        assert reporter.take(FrontOrders(report.sequence, epoch)) is needs_all
        told = [total.arrived for total in reporter.compose(0, 1.0).demand]
        assert told == ([1] if needs_all else [])


def test_only_a_controller_with_a_lower_epoch_has_been_replaced() -> None:
    reporter = reporter_of(DemandCounters())
    assert not reporter.is_replaced(FrontOrders(0, 2))
    reporter.take(FrontOrders(0, 2))
    found = [reporter.is_replaced(FrontOrders(0, epoch)) for epoch in (0, 1, 2, 3)]
    assert found == [False, True, False, False]


def test_an_answer_to_reports_that_were_never_sent_acknowledges_nothing_later() -> None:
    counters = DemandCounters()
    reporter = reporter_of(counters)
    reporter.compose(0, 1.0)
    reporter.take(FrontOrders(1000, 1))
    counters.arrive(KEY, 5)
    assert [total.arrived for total in reporter.compose(0, 2.0).demand] == [1]


def test_predictions_are_medians_of_the_last_picks_of_a_tier() -> None:
    picks = RecentPicks()
    picks.follow({"acme": "gold"})
    for ttft in (9.0,) * 100 + (0.1,) * (LAST_PICKS // 2 + 1):
        picks.note("acme", whole=ttft < 1, predicted_ttft=ttft, now=1.0)
    picks.note("acme", whole=True, predicted_ttft=None, now=1.0)
    picks.note("somebody", whole=True, predicted_ttft=9.0, now=1.0)
    assert picks.predicted_ttft(1.0 + PICK_AGE_S) == {"gold": 0.1}
    assert picks.predicted_ttft(1.1 + PICK_AGE_S) == {}
    assert (picks.cold, picks.picked) == (100, 102 + LAST_PICKS // 2 + 1)


def test_a_controller_without_an_epoch_brings_no_replaced_one_back() -> None:
    reporter = reporter_of(DemandCounters())
    reporter.take(FrontOrders(0, 5))
    reporter.take(FrontOrders(0, 0))
    assert reporter.is_replaced(FrontOrders(0, 4))
    assert not reporter.is_replaced(FrontOrders(0, 5))
