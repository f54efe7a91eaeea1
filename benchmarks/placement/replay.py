"""Replays a recording in the simulator, and tells how far it is from what was recorded.

Costs of steps and loads, and the simulator's delays, are fitted on the recording's first half; the
rows compare its second half.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.placement.divided_steps import divide_steps
from benchmarks.placement.fitted_costs import fitted_costs
from benchmarks.placement.recording import read_recording, recorded_spec
from benchmarks.placement.row import ResultRow
from benchmarks.placement.work_log import read_work
from cluster.placement.cost.model import CostModel
from cluster.simulation.calibrate import Calibration, Simulate, calibrate, middle_of
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import ReplicaEngine

DEMANDED = {"ttft_p50": 0.10, "ttft_p99": 0.15, "whole_resident": 0.03}


def replay(folder: Path, engine: ReplicaEngine, simulation: Simulate = simulate) -> Calibration:
    """Return the calibration on a recording.

    Raises:
        ConfigError: it is not a recording, or too short.
    """
    recording = read_recording(folder)
    spec = replace(recorded_spec(folder, recording), engine=engine)
    middle = middle_of(spec.trace)
    began = next((request.at for request in spec.trace if request.served is not None), 0.0)
    costs = fitted_costs(CostModel(), read_work(folder), until=middle - began)
    first = replace(spec, trace=[one for one in spec.trace if one.at < middle])
    costs = divide_steps(costs, first, simulation)
    spec = replace(spec, model=costs.model, crowding=costs.crowding, drift=costs.drift)
    return calibrate(spec, simulation, recording.counts)


def rows(folder: Path = Path("recording"), engine: ReplicaEngine = "exact") -> list[ResultRow]:
    """Replay a folder of `python -m benchmarks.placement.record`, and return the rows of N22."""
    return rows_of(replay(folder, engine))


def rows_of(found: Calibration) -> list[ResultRow]:
    """Return the rows of N22."""
    errors, recorded, simulated = found.errors, found.recorded, found.simulated
    what = (
        f"simulated against recorded, second half, {recorded.answered} requests; fitted to the "
        "first half: costs of steps and loads, crowding, drift, share of prompts, three delays"
    )

    def row(name: str, label: str, error: float, shown: str, figures: str) -> ResultRow:
        bound = DEMANDED[name]
        return ResultRow(
            name=f"N22 {label}",
            what=what,
            before="not possible",
            demanded=f"<= {100 * bound:.0f} {'points' if name == 'whole_resident' else '%'}",
            after=f"{shown} ({figures})",
            interval="-",
            met=abs(error) <= bound,
        )

    return [
        row(
            "ttft_p50",
            "TTFT p50",
            errors.ttft_p50,
            f"{errors.ttft_p50:+.1%}",
            f"{1e3 * simulated.ttft_p50:.0f} against {1e3 * recorded.ttft_p50:.0f} ms",
        ),
        row(
            "ttft_p99",
            "TTFT p99",
            errors.ttft_p99,
            f"{errors.ttft_p99:+.1%}",
            f"{1e3 * simulated.ttft_p99:.0f} against {1e3 * recorded.ttft_p99:.0f} ms",
        ),
        row(
            "whole_resident",
            "whole-resident share",
            errors.whole_resident,
            f"{100 * errors.whole_resident:+.1f} points",
            f"{simulated.whole_resident:.3f} against {recorded.whole_resident:.3f}",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exit status 1: a demand is not met."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.placement.replay", description=__doc__
    )
    parser.add_argument("folder", type=Path, help="of `python -m benchmarks.placement.record`")
    parser.add_argument("--engine", choices=["exact", "fast"], default="exact")
    options = parser.parse_args(arguments)
    found = replay(options.folder, options.engine)
    for row in rows_of(found):
        print(f"{row.name}: demanded {row.demanded}, found {row.after}")
    for line in found.errors.words:
        print(f"  {line}")
    print(f"  delays {found.delays}, after {found.simulations} simulations")
    if not all(row.met for row in rows_of(found)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
