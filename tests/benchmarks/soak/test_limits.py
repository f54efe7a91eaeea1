"""Growth that fails a soak, and growth that is only reported."""

import pytest

from benchmarks.soak.limits import FOREIGN, OWN, Limits, is_own, judge, store_bounds
from benchmarks.soak.processes import Drift
from cluster.redis_client import MAX_CONNECTIONS

MIB = 2**20


def drift(
    name: str,
    before: float = 100.0,
    after: float = 100.0,
    *,
    fds: tuple[float, float] = (40, 40),
    threads: tuple[float, float] = (12, 12),
    store: tuple[int, int] = (0, 0),
) -> Drift:
    """Return a drift from memory in MiB."""
    return Drift(name, (before * MIB, after * MIB), fds, threads, store)


@pytest.mark.parametrize(
    ("before", "after", "off"),
    [
        (6.7, 7.0, False),  # 5 % of little is nothing
        (6.7, 10.6, False),
        (6.7, 10.8, True),  # more than the floor
        (1600.0, 1679.0, False),
        (1600.0, 1681.0, True),  # more than the part
        (80.0, 84.0, False),  # where both rules meet
        (80.0, 84.1, True),
        (100.0, 50.0, False),
    ],
)
def test_memory_may_grow_by_a_part_or_by_the_floor(before: float, after: float, off: bool) -> None:
    limits = Limits(memory=0.05, memory_floor=4.0, spare=4)
    assert bool(limits.problems(drift("valkey-server-1", before, after))) is off


def test_what_is_allowed_is_said() -> None:
    (problem,) = OWN.problems(drift("Front-3", 20.0, 30.0))
    assert problem == ("Front-3: memory grew from 20.0 to 30.0 MiB, +50.0%; 4.0 MiB are allowed")


@pytest.mark.parametrize("what", ["fds", "threads"])
@pytest.mark.parametrize(("last", "off"), [(44, False), (45, True), (10, False)])
def test_descriptors_and_threads_have_spare(what: str, last: int, off: bool) -> None:
    grown = drift("Replica-1", **{what: (40, last)})  # type: ignore[arg-type]
    assert bool(OWN.problems(grown)) is off


def test_rays_own_growth_is_told_apart() -> None:
    """A small agent of Ray's that doubles does not fail a soak, and is not passed over."""
    verdict = judge([drift("runtime_env-7", 33.9, 90.0), drift("Front-8", 600.0, 601.0)])
    assert verdict.own == []
    (growth,) = verdict.foreign
    assert growth.startswith("runtime_env-7: memory grew")


def test_what_rays_agent_did_in_an_hour_is_within_its_limits() -> None:
    assert FOREIGN.problems(drift("runtime_env-31374", 33.9, 36.6, fds=(79, 74))) == []


def test_the_same_growth_fails_a_process_of_ours() -> None:
    verdict = judge([drift("Controller-7", 33.9, 90.0)])
    assert len(verdict.own) == 1
    assert verdict.foreign == []


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("Front-1", True),
        ("Replica-2", True),
        ("Controller-3", True),
        ("supervisor-4", True),
        ("valkey-server-5", True),
        ("ServeController-6", False),
        ("gcs_server-7", False),
        ("monitor.py-8", False),
        ("RuntimeEnvAgent-9", False),
    ],
)
def test_whose_a_process_is(name: str, own: bool) -> None:
    assert is_own(drift(name)) is own


def test_connections_to_the_store_may_reach_the_pools_bounds_and_no_more() -> None:
    most = 3 * MAX_CONNECTIONS
    assert judge([drift("Front-1", store=(3, most))]).own == []
    (problem,) = judge([drift("Front-1", store=(3, most + 1))]).own
    assert problem == (
        f"Front-1: {most + 1} connections to the store, its pools have at most {most}"
    )


def test_a_process_without_a_pool_has_no_connections() -> None:
    assert len(judge([drift("supervisor-1", store=(0, 1))]).own) == 1


def test_the_store_may_have_as_many_as_all_pools_together() -> None:
    names = ["Front-1", "Replica-2", "Replica-3", "Controller-4", "valkey-server-5", "raylet-6"]
    assert store_bounds(names) == {
        "Front-1": 3 * MAX_CONNECTIONS,
        "Replica-2": 2 * MAX_CONNECTIONS,
        "Replica-3": 2 * MAX_CONNECTIONS,
        "Controller-4": 2 * MAX_CONNECTIONS,
        "valkey-server-5": 9 * MAX_CONNECTIONS,
        "raylet-6": 0,
    }


def test_other_descriptors_of_the_store_are_held_to_the_spare() -> None:
    assert judge([drift("valkey-server-5", fds=(12, 12), store=(6, 12))]).own != []
    names = [drift("Front-1"), drift("valkey-server-5", fds=(12, 12), store=(6, 12))]
    assert judge(names).own == []
    leaking = [drift("Front-1"), drift("valkey-server-5", fds=(12, 17), store=(6, 12))]
    assert len(judge(leaking).own) == 1
