"""Replicas that share cores slow each other, while they compute and only then."""

import math

import pytest

from cluster.simulation.replica.step_pace import SharedCores, StepPace
from cluster.simulation.result import SimulationResult
from cluster.simulation.simulate import simulate
from cluster.simulation.virtual.virtual_loop import VirtualLoop
from cluster.simulation.virtual.virtual_process import VirtualProcess
from tests.support.small_traces import TraceMaker, spec_of

ENGINES = ("exact", "fast")


def process_of(name: str) -> VirtualProcess:
    return VirtualProcess(VirtualLoop(), name, 0.0)  # type: ignore[abstract] # as the simulator's


def test_only_others_that_compute_slow_a_step() -> None:
    cores = SharedCores(0.5)
    processes = [process_of(name) for name in ("r0", "r1", "r2")]
    paces = [StepPace(2.0, cores, process) for process in processes]
    assert [pace.begin() for pace in paces] == [2.0, 3.0, 4.0]
    assert paces[0].begin() == 4.0
    paces[1].rest()
    assert paces[0].begin() == 3.0
    processes[2].hang()
    assert paces[0].begin() == 2.0
    processes[2].resume()
    assert paces[0].begin() == 3.0
    processes[2].kill()
    assert paces[0].begin() == 2.0


def run(engine: str, replicas: int, crowding: float) -> SimulationResult:
    streams = [("acme", (f"a{n}",), 0.5) for n in range(4)]
    trace = TraceMaker(5).serve(streams, 40).requests
    return simulate(spec_of(trace, 4, engine=engine, replicas=replicas, crowding=crowding))


def mean_e2e(result: SimulationResult) -> float:
    times = [one.e2e for one in result.requests if one.e2e is not None]
    assert len(times) == len(result.requests)
    return sum(times) / len(times)


@pytest.mark.parametrize("engine", ENGINES)
def test_replicas_slow_each_other_by_what_they_compute_at_once(engine: str) -> None:
    alone, crowded = mean_e2e(run(engine, 3, 0.0)), mean_e2e(run(engine, 3, 0.5))
    assert 1.05 < crowded / alone < 2.0  # at most two others: 1 + 2 * 0.5


@pytest.mark.parametrize("crowding", [-0.1, math.inf, math.nan])
def test_a_crowding_that_makes_no_sense_is_refused(crowding: float) -> None:
    with pytest.raises(ValueError, match="crowding is"):
        run("fast", 3, crowding)
