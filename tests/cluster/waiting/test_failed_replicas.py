"""Checks which replicas a sequence is not sent to again."""

from cluster.domain.ids import ReplicaId
from cluster.waiting.failed_replicas import FailedReplicas
from tests.support.small_views import view_of

A, B = ReplicaId("a"), ReplicaId("b")


def test_one_that_failed_it_is_left_out_while_there_are_others() -> None:
    failed = FailedReplicas()
    assert failed.excluded(view_of(A)) == ()
    failed.add(A)
    assert failed.excluded(view_of(A, B)) == (A,)
    assert failed.excluded(view_of(A)) == ()
    failed.add(B)
    assert failed.excluded(view_of(A, B)) == ()
    assert (len(failed), failed.unplanned) == (2, 2)


def test_one_that_stops_is_left_out_in_any_case() -> None:
    failed = FailedReplicas()
    failed.add(A, stops=True)
    failed.add(B)
    assert failed.excluded(view_of(A)) == (A,)
    assert failed.excluded(view_of(A, B)) == (A,)


def test_one_that_ends_as_planned_counts_for_no_limit() -> None:
    failed = FailedReplicas()
    failed.add(A, stops=True, planned=True)
    failed.add(B)
    assert (len(failed), failed.unplanned) == (2, 1)
