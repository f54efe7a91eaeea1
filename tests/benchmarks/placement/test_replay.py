"""A recording is read back and replayed in the simulator."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import pytest

from benchmarks.placement.recording.fitted_costs import fitted_costs
from benchmarks.placement.recording.recording import (
    RecordedAdapter,
    Recording,
    cost_model,
    read_recording,
    recorded_spec,
    recorded_trace,
)
from benchmarks.placement.recording.replay import Replay, replay, rows_of
from benchmarks.placement.recording.work_log import WORK, WorkReading, read_work
from cluster.config import EngineConfig
from cluster.domain.ids import ReplicaId
from cluster.domain.work import LoadTotals, StepTotals, WorkTotals
from cluster.errors import ConfigError
from cluster.placement.cost.fit import CostFit
from cluster.placement.cost.model import CostModel, LoadCost, StepCost
from cluster.simulation.calibrate import Calibration, CalibrationErrors
from cluster.simulation.log_figures import LogFigures
from cluster.simulation.replica.engine_port import add_totals
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import Delays
from cluster.simulation.trace import ServedFacts
from cluster.simulation.traces.trace_file import TraceHeader
from cluster.simulation.traces.trace_names import named_trace
from tests.support.written_trace import write_trace

STEP = StepCost(0.03, 0.001, 0.002, 1e-5, 1e-10, 1e-6)
LOAD = LoadCost(0.05, 2e-8)
MODEL = CostModel(STEP, LOAD, LOAD, start_s=12.0)
COSTS = CostFit(MODEL).describe()
RECORDING = Recording(
    model="tiny",
    replicas=2,
    slots=4,
    adapter_bytes=2**20,
    host_bytes=2**20,
    engine=EngineConfig(max_batch_size=8).model_dump(mode="json"),
    adapters=tuple(RecordedAdapter(f"a{n:04d}", f"{n:064x}", 1000, 8) for n in range(8)),
    begin=1010.0,
    counts=((0.0, 2),),
    costs=COSTS,
    notes=("made up",),
)

MOST = (40, 900, 160, 1500, 90_000, 4000)
"""Of each feature, in one second."""


def write_work(folder: Path, readings: list[WorkReading]) -> None:
    """Write the readings of a recording."""
    lines = (json.dumps(asdict(reading)) + "\n" for reading in readings)
    (folder / WORK).write_text("".join(lines), encoding="utf-8")


def made_up_readings(count: int = 60) -> list[WorkReading]:
    """Return readings of a replica whose steps and loads take what ``MODEL`` says."""
    readings, steps, loads = [], StepTotals(), LoadTotals()
    for number in range(count):
        readings.append(WorkReading(float(number), ReplicaId("r"), WorkTotals(steps, loads, loads)))
        draw = Random(number)
        done = StepTotals(*(round(most * draw.uniform(0.1, 1.0)) for most in MOST))
        steps = add_totals(steps, replace(done, seconds=STEP.seconds(done)))
        loads = LoadTotals(loads.loads + 1, loads.nbytes + 1000, loads.seconds + LOAD.seconds(1000))
    return readings


READINGS = made_up_readings()
SHARE = 0.6
"""About the share of a second that the steps of a busy replica take."""


def simulated_recording(folder: Path) -> None:
    """Write a recording whose times come from the simulator itself, with other delays."""
    RECORDING.save(folder)
    asked = list(named_trace("constant,rate=2,adapters=8,s=1", 3, 480.0))
    write_trace(folder / "trace.jsonl", asked, TraceHeader(start=1010.0))
    spec = recorded_spec(folder, RECORDING)
    result = simulate(replace(spec, engine="fast", delays=Delays(front_s=0.03)))
    served = [
        replace(
            one.asked,
            at=one.asked.at + 10,
            served=ServedFacts(
                one.replica or "", one.tier_found, one.ttft, one.e2e or 0.0, one.outcome
            ),
        )
        for one in result.requests
    ]
    write_work(folder, READINGS)
    warm_up = replace(served[0], at=1.0)
    write_trace(folder / "trace.jsonl", [warm_up, *served], TraceHeader(start=1000.0))


def test_a_recording_is_read_back(tmp_path: Path) -> None:
    RECORDING.save(tmp_path)
    assert read_recording(tmp_path) == RECORDING


def test_what_came_before_the_load_says_nothing_of_its_outcome(tmp_path: Path) -> None:
    simulated_recording(tmp_path)
    warm_up, *found = recorded_trace(tmp_path, RECORDING)
    assert (warm_up.at, warm_up.served) == (0.0, None)
    assert all(request.served is not None for request in found)
    assert [request.at for request in found] == pytest.approx(
        [9 + request.at for request in named_trace("constant,rate=2,adapters=8,s=1", 3, 480.0)],
        abs=1e-5,
    )


def test_costs_are_read_as_a_cluster_describes_them() -> None:
    assert cost_model(COSTS) == MODEL
    assert cost_model({}) == CostModel()
    some = cost_model({"step": {"coefficients": {"per_step": {"value": 0.5}}}})
    assert some.step == replace(CostModel().step, per_step=0.5)


def test_costs_are_those_that_explain_the_first_readings() -> None:
    later = [replace(one, at=one.at + 60) for one in made_up_readings()]
    found = fitted_costs(CostModel(), [*READINGS, *later], until=60.0)
    assert found == fitted_costs(CostModel(), READINGS, until=math.inf)
    for done in (StepTotals(1, 200, 0, 20, 1000, 1600), StepTotals(1, 0, 4, 40, 4000, 32)):
        assert found.model.step.seconds(done) == pytest.approx(STEP.seconds(done), rel=0.05)
    assert found.model.host_load.seconds(1000) == pytest.approx(LOAD.seconds(1000), rel=0.1)
    nothing = fitted_costs(MODEL, READINGS, until=0.0)
    assert (nothing.model, nothing.crowding) == (MODEL, 0.0)


@pytest.mark.parametrize("crowding", [0.0, 0.5])
def test_replicas_that_slow_each_other_are_told_from_slow_ones(crowding: float) -> None:
    readings = []
    steps = {ReplicaId("r1"): StepTotals(), ReplicaId("r2"): StepTotals()}
    for number in range(200):
        for replica, so_far in steps.items():
            readings.append(WorkReading(float(number), replica, WorkTotals(so_far)))
        busy = {"r1": number % 2, "r2": number // 2 % 2}
        for replica in steps:
            done = StepTotals(*(n * busy[replica] for n in (10, 200, 20, 150, 9000, 1000)))
            others = sum(busy.values()) - busy[replica]
            seconds = STEP.seconds(done) * (1 + crowding * others * SHARE)
            steps[replica] = add_totals(steps[replica], replace(done, seconds=seconds))
    found = fitted_costs(CostModel(), readings, until=math.inf)
    assert found.crowding == pytest.approx(crowding, abs=0.15)


def test_a_reading_of_work_is_read_back(tmp_path: Path) -> None:
    write_work(tmp_path, READINGS)
    assert read_work(tmp_path) == READINGS
    (tmp_path / WORK).write_text('{"at": 1.0}\n')
    with pytest.raises(ConfigError, match="record again"):
        read_work(tmp_path)


def test_a_recording_of_the_simulator_is_met(tmp_path: Path) -> None:
    simulated_recording(tmp_path)
    found = replay(tmp_path, "fast")
    rows = rows_of(found)
    assert [row.name for row in rows] == [
        "N22 TTFT p50",
        "N22 TTFT p99",
        "N22 whole-resident share",
    ]
    errors = found.found.errors
    assert all(row.met for row in rows[:2]), errors.words
    assert abs(errors.whole_resident) < 0.05  # few requests: one is almost a point
    assert errors.replicas == 0
    p50s = [drawn.ttft_p50 for drawn in found.drawn]
    assert min(p50s) < errors.ttft_p50 < max(p50s)


def test_rows_say_what_is_not_met() -> None:
    figures = LogFigures(100, 0.1, 0.5, 1.0, 0.9)
    errors = CalibrationErrors(-0.11, 0.14, 0.0, 0.031, None)
    other = replace(errors, ttft_p50=0.02)
    rows = rows_of(
        Replay(Calibration(Delays(), errors, figures, figures, 3), (errors, other), other)
    )
    assert [row.met for row in rows] == [False, True, False]
    assert rows[0].demanded == "<= 10 %"
    assert rows[0].after == "-11.0 % (100 against 100 ms); without crowding +2.0 %"
    assert rows[0].interval == "95 % over resampled requests: -11.0 % to +2.0 %"
    assert "met in the mean" not in rows[0].interval
    assert rows[2].after == "+3.1 points (0.900 against 0.900); without crowding +3.1 points"


def test_a_row_says_where_its_interval_is_not_within_the_bound() -> None:
    figures = LogFigures(100, 0.1, 0.5, 1.0, 0.9)
    errors = CalibrationErrors(0.02, 0.06, 0.0, 0.01, None)
    far = replace(errors, ttft_p99=0.177)
    rows = rows_of(Replay(Calibration(Delays(), errors, figures, figures, 3), (errors, far), far))
    assert [row.met for row in rows] == [True, True, True]
    reached = [row.name for row in rows if "met in the mean" in row.interval]
    assert reached == ["N22 TTFT p99"]
    assert rows[1].interval.endswith("; met in the mean, the interval reaches +17.7 %")


def test_a_folder_that_has_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a recording"):
        read_recording(tmp_path)
    (tmp_path / "cluster.json").write_text(json.dumps({"adapters": [], "counts": []}))
    with pytest.raises(ConfigError, match="not a recording"):
        read_recording(tmp_path)
    RECORDING.save(tmp_path)
    with pytest.raises(ConfigError, match="record again"):
        recorded_trace(tmp_path, RECORDING)
