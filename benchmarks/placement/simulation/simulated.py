"""Shared by rows that come from the simulator: runs columns over seeds and words their figures."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TypeVar

from benchmarks.shared.machine import usable_cores
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.report.markdown import interval_text
from cluster.simulation.report.statistics import Interval
from cluster.simulation.report.table import Cell, Report, make_report
from cluster.simulation.report.trials import (
    Column,
    Experiment,
    SpecChange,
    SpecMaker,
    run_experiment,
)
from cluster.simulation.result import SimulationResult
from cluster.simulation.simulate import simulate

FIRST_SEED = 1
T = TypeVar("T")


def run_columns(
    make: SpecMaker,
    columns: Sequence[Column],
    seeds: int,
    promises: ClusterPolicy,
    what: str,
    *,
    first_seed: int = FIRST_SEED,
) -> Report:
    """Run all columns over seeds on every core, with a line for each tenth of the way."""
    experiment = Experiment(
        make, tuple(columns), tuple(range(first_seed, first_seed + seeds)), promises
    )
    tenths = -1

    def progress(share: float) -> None:
        nonlocal tenths
        if int(10 * share) != tenths:
            tenths = int(10 * share)
            print(f"  {what}: {10 * tenths} %", flush=True)

    return make_report(experiment, run_experiment(experiment, usable_cores(), progress), {})


def measure_columns(
    make: SpecMaker,
    changes: Sequence[SpecChange],
    seeds: int,
    measure: Callable[[SimulationResult], T],
    what: str,
) -> list[list[T]]:
    """Return figures of a row's own by column and seed; every column serves the same requests."""
    jobs = [(change, seed) for change in changes for seed in range(FIRST_SEED, FIRST_SEED + seeds)]
    found: list[T] = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(usable_cores(), mp_context=spawn) as pool:
        for figures in pool.map(partial(_measured, make, measure), *zip(*jobs, strict=True)):
            found.append(figures)
            if 10 * len(found) // len(jobs) != 10 * (len(found) - 1) // len(jobs):
                print(f"  {what}: {100 * len(found) // len(jobs)} %", flush=True)
    return [found[first : first + seeds] for first in range(0, len(jobs), seeds)]


def _measured(
    make: SpecMaker, measure: Callable[[SimulationResult], T], change: SpecChange, seed: int
) -> T:
    return measure(simulate(change(make(seed))))


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


def count_range(counts: Sequence[int]) -> str:
    """Write the least and the most of some counts."""
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"
