"""Shared by rows that come from the simulator: runs columns over seeds and words their figures."""

from collections.abc import Callable, Sequence

from benchmarks.shared.machine import usable_cores
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.report.experiment import Column, Experiment, run_experiment
from cluster.simulation.report.markdown import interval_text
from cluster.simulation.report.statistics import Interval
from cluster.simulation.report.table import Cell, Report, make_report
from cluster.simulation.spec import SimulationSpec

FIRST_SEED = 1


def run_columns(
    make: Callable[[int], SimulationSpec],
    columns: Sequence[Column],
    seeds: int,
    promises: ClusterPolicy,
    what: str,
) -> Report:
    """Run all columns over seeds on every core, with a line for each tenth of the way."""
    experiment = Experiment(
        make, tuple(columns), tuple(range(FIRST_SEED, FIRST_SEED + seeds)), promises
    )
    tenths = -1

    def progress(share: float) -> None:
        nonlocal tenths
        if int(10 * share) != tenths:
            tenths = int(10 * share)
            print(f"  {what}: {10 * tenths} %", flush=True)

    return make_report(experiment, run_experiment(experiment, usable_cores(), progress), {})


def cell_of(report: Report, section: str, name: str, column: int = 0) -> Cell:
    """Return one cell of a report.

    Raises:
        ValueError: no run of the column has such a figure.
    """
    row = report.row(section, name)
    cell = row.cells[column] if row is not None else None
    if cell is None:
        raise ValueError(f"{report.columns[column][0]}: no {name} of {section}")
    return cell


def seconds(value: Interval) -> str:
    """Write seconds with their interval."""
    return interval_text(value, "s")
