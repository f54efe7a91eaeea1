"""The roll call of replicas: who is waited for, and for how long."""

import pytest

from cluster.domain.ids import ReplicaId
from cluster.placement.control.attendance import PATIENCE_S, Attendance
from cluster.placement.control.drain import ServeReplica, ServeReplicas
from cluster.placement.control.serve_counts import ServeCounts

R0, R1, R2 = (ReplicaId(f"r{number}") for number in range(3))


def listed(*names: ReplicaId) -> ServeReplicas:
    return ServeReplicas(tuple(ServeReplica(name, "n") for name in names))


@pytest.mark.parametrize("with_list", [True, False])
def test_each_missing_replica_has_its_own_patience(with_list: bool) -> None:
    attendance = Attendance()

    def complete(at: float, *heard: ReplicaId) -> bool:
        replicas = listed(R0, R1, R2) if with_list else None
        return attendance.call(heard, ServeCounts(3, 3, 0), replicas, at)

    assert not complete(0.0, R0, R1)
    assert not complete(PATIENCE_S - 1, R0, R1)
    assert complete(PATIENCE_S, R0, R1), "the third is given up"
    assert not complete(100.0, R0), "the second is missed since now"
    assert not complete(100.0 + PATIENCE_S - 1, R0)
    assert complete(100.0 + PATIENCE_S, R0)


def test_one_that_came_back_is_waited_for_anew() -> None:
    attendance = Attendance()
    serve, replicas = ServeCounts(2, 2, 0), listed(R0, R1)
    assert not attendance.call({R0}, serve, replicas, 0.0)
    assert attendance.call({R0}, serve, replicas, PATIENCE_S)
    assert attendance.call({R0, R1}, serve, replicas, 40.0)
    assert not attendance.call({R0}, serve, replicas, 41.0)


def test_who_serve_does_not_list_any_more_does_not_stand_for_another() -> None:
    attendance = Attendance()
    assert not attendance.call({R0, R1}, ServeCounts(2, 2, 0), listed(R0, R2), 0.0)


def test_starts_that_fail_one_after_another_are_given_up_as_one() -> None:
    attendance = Attendance()
    complete = [
        attendance.call((), ServeCounts(1, 0, 1), listed(ReplicaId(f"r{second // 10}")), second)
        for second in range(int(PATIENCE_S) + 2)
    ]
    assert complete == [False] * int(PATIENCE_S) + [True] * 2


def test_adapters_may_move_once_all_that_run_were_heard() -> None:
    attendance = Attendance()
    starting = ServeReplicas((ServeReplica(R0, "n"), ServeReplica(R1, "", running=False)))
    assert not attendance.call((), ServeCounts(2, 1, 1), starting, 0.0)
    assert not attendance.opened
    assert not attendance.call({R0}, ServeCounts(2, 1, 1), starting, 1.0)
    assert attendance.opened
