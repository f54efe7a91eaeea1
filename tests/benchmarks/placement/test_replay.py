"""A recording is read back and replayed in the simulator."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.placement.recording import (
    RecordedAdapter,
    Recording,
    cost_model,
    read_recording,
    recorded_spec,
    recorded_trace,
)
from benchmarks.placement.replay import replay, rows_of
from cluster.config import EngineConfig
from cluster.errors import ConfigError
from cluster.placement.cost.fit import CostFit
from cluster.placement.cost.model import CostModel, LoadCost, StepCost
from cluster.simulation.calibrate import Calibration, CalibrationErrors, LogFigures
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


def simulated_recording(folder: Path) -> None:
    """Write a recording whose times come from the simulator itself, with other delays."""
    RECORDING.save(folder)
    asked = list(named_trace("constant,rate=2,adapters=8,s=1", 3, 120.0))
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
    warm_up = replace(served[0], at=1.0)
    write_trace(folder / "trace.jsonl", [warm_up, *served], TraceHeader(start=1000.0))


def test_a_recording_is_read_back(tmp_path: Path) -> None:
    RECORDING.save(tmp_path)
    assert read_recording(tmp_path) == RECORDING


def test_what_came_before_the_load_is_left_out(tmp_path: Path) -> None:
    simulated_recording(tmp_path)
    found = recorded_trace(tmp_path, RECORDING)
    assert all(request.at >= 0 for request in found)
    assert [request.at for request in found] == pytest.approx(
        [request.at for request in named_trace("constant,rate=2,adapters=8,s=1", 3, 120.0)],
        abs=1e-5,
    )


def test_costs_are_read_as_a_cluster_describes_them() -> None:
    assert cost_model(COSTS) == MODEL
    assert cost_model({}) == CostModel()
    some = cost_model({"step": {"coefficients": {"per_step": {"value": 0.5}}}})
    assert some.step == replace(CostModel().step, per_step=0.5)


def test_a_recording_of_the_simulator_is_met(tmp_path: Path) -> None:
    simulated_recording(tmp_path)
    found = replay(tmp_path, "fast")
    rows = rows_of(found)
    assert [row.name for row in rows] == [
        "N22 TTFT p50",
        "N22 TTFT p99",
        "N22 whole-resident share",
    ]
    assert all(row.met for row in rows), found.errors.words
    assert found.errors.replicas == 0


def test_rows_say_what_is_not_met() -> None:
    figures = LogFigures(100, 0.1, 0.5, 1.0, 0.9)
    errors = CalibrationErrors(-0.11, 0.14, 0.0, 0.031, None)
    rows = rows_of(Calibration(Delays(), errors, figures, figures, 3))
    assert [row.met for row in rows] == [False, True, False]
    assert rows[0].demanded == "<= 10 %"
    assert rows[0].after == "-11.0% (100 against 100 ms)"
    assert rows[2].after == "+3.1 points (0.900 against 0.900)"


def test_a_folder_that_has_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a recording"):
        read_recording(tmp_path)
    (tmp_path / "cluster.json").write_text(json.dumps({"adapters": [], "counts": []}))
    with pytest.raises(ConfigError, match="not a recording"):
        read_recording(tmp_path)
    RECORDING.save(tmp_path)
    with pytest.raises(ConfigError, match="record again"):
        recorded_trace(tmp_path, RECORDING)
