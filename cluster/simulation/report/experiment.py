"""Runs the same traces through several columns: policies, baselines, steps of a sweep.

Every column serves the same requests for a seed, so columns can be compared seed by seed.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial

from cluster.placement.policy import ClusterPolicy
from cluster.simulation.report.figures import Figures, run_figures
from cluster.simulation.report.series import RunSeries, run_series
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import SimulationSpec

SpecMaker = Callable[[int], SimulationSpec]
"""Makes the description of a seed's run; picklable."""
SpecChange = Callable[[SimulationSpec], SimulationSpec]
"""Makes a column's description; picklable."""


@dataclass(frozen=True, slots=True)
class Column:
    """One way to serve the traces."""

    name: str
    what: str
    change: SpecChange


@dataclass(frozen=True, slots=True)
class Experiment:
    """Traces by seed, and the columns that serve them. The first column is compared with."""

    make: SpecMaker
    columns: tuple[Column, ...]
    seeds: tuple[int, ...]
    promises: ClusterPolicy  # its tiers judge all columns


@dataclass(frozen=True, slots=True)
class Trial:
    """The outcome of one column and one seed."""

    column: int
    seed: int
    figures: Figures
    series: RunSeries | None  # of the first seed only


def policy_column(name: str, policy: ClusterPolicy, what: str = "") -> Column:
    """Return the column of a policy."""
    return Column(name, what, partial(_with_policy, policy=policy))


def _with_policy(spec: SimulationSpec, policy: ClusterPolicy) -> SimulationSpec:
    return replace(spec, policy=policy)


def run_trial(experiment: Experiment, column: int, seed: int) -> Trial:
    """Simulate one column's run of one seed."""
    spec = experiment.columns[column].change(experiment.make(seed))
    aliases = {info.digest: info.alias for info in spec.catalog}
    result = simulate(spec)
    return Trial(
        column,
        seed,
        run_figures(result, experiment.promises, aliases=aliases),
        run_series(result, aliases) if seed == experiment.seeds[0] else None,
    )


def run_experiment(experiment: Experiment, workers: int) -> Iterator[Trial]:
    """Run all trials on so many processes; yields each as it ends.

    Closing the iterator, or an exception in it, ends the processes at once.
    """
    jobs = [
        (column, seed) for seed in experiment.seeds for column in range(len(experiment.columns))
    ]
    if workers <= 1 or len(jobs) == 1:
        for column, seed in jobs:
            yield run_trial(experiment, column, seed)
        return
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=(experiment,),
    )
    try:
        for done in as_completed([pool.submit(_run_in_worker, *job) for job in jobs]):
            yield done.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    pool.shutdown()


_worker_experiment: list[Experiment] = []


def _begin_worker(experiment: Experiment) -> None:
    """Keep the experiment in a new process, and leave Ctrl-C to the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker_experiment[:] = [experiment]


def _run_in_worker(column: int, seed: int) -> Trial:
    return run_trial(_worker_experiment[0], column, seed)


def ordered(trials: Sequence[Trial]) -> list[Trial]:
    """Sort trials by column and seed, whatever order they ended in."""
    return sorted(trials, key=lambda trial: (trial.column, trial.seed))
