"""Runs the same traces through several columns: policies, baselines, steps of a sweep.

Every column serves the same requests for a seed, so columns can be compared seed by seed.
"""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from cluster.errors import BraidError
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.calibrate import LEAST_REQUESTS, CalibrationErrors, errors_of
from cluster.simulation.log_figures import is_answered
from cluster.simulation.report.figures import Figures, run_figures
from cluster.simulation.report.series import RunSeries, run_series
from cluster.simulation.result import ServedRequest
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import SimulationSpec

SpecMaker = Callable[[int], SimulationSpec]
"""Makes the description of a seed's run; picklable."""
SpecChange = Callable[[SimulationSpec], SimulationSpec]
"""Makes a column's description; picklable."""


class SimulationStopped(BraidError):
    """A simulation could not be brought to its end."""

    code = "simulation_stopped"


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
    errors: CalibrationErrors | None = None
    """Of the first column and seed, where the trace has what became of its requests."""


def policy_column(name: str, policy: ClusterPolicy, what: str = "") -> Column:
    """Return the column of a policy."""
    return Column(name, what, partial(_with_policy, policy=policy))


def _with_policy(spec: SimulationSpec, policy: ClusterPolicy) -> SimulationSpec:
    return replace(spec, policy=policy)


def run_trial(
    experiment: Experiment,
    column: int,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> Trial:
    """Simulate one column's run of one seed."""
    spec = experiment.columns[column].change(experiment.make(seed))
    aliases = {info.digest: info.alias for info in spec.catalog}
    result = simulate(spec, progress=progress)
    first = seed == experiment.seeds[0]
    return Trial(
        column,
        seed,
        run_figures(result, experiment.promises, aliases=aliases, own_weights=spec.own_weights),
        run_series(result, aliases) if first else None,
        _errors_on_record(result.requests) if first and column == 0 else None,
    )


def _errors_on_record(requests: Sequence[ServedRequest]) -> CalibrationErrors | None:
    answered = sum(is_answered(one.asked) for one in requests)
    return errors_of(requests) if answered >= LEAST_REQUESTS else None


def run_experiment(
    experiment: Experiment, workers: int, progress: Callable[[float], None] = lambda _: None
) -> list[Trial]:
    """Run all trials on so many processes; returns them by column and seed.

    An exception, Ctrl-C's included, ends the processes at once.

    Args:
        progress: called with the share that is done, 0 to 1.
    """
    jobs = [
        (column, seed) for seed in experiment.seeds for column in range(len(experiment.columns))
    ]
    trials: list[Trial] = []

    def take(trial: Trial) -> None:
        trials.append(trial)
        progress(len(trials) / len(jobs))

    if workers <= 1 or len(jobs) == 1:
        for number, (column, seed) in enumerate(jobs):
            within = partial(_within, progress, number, len(jobs))
            take(run_trial(experiment, column, seed, within))
    else:
        _run_in_processes(experiment, jobs, min(workers, len(jobs)), take)
    return sorted(trials, key=lambda trial: (trial.column, trial.seed))


def _within(progress: Callable[[float], None], number: int, jobs: int, share: float) -> None:
    """Report progress within one of several jobs."""
    progress((number + min(1.0, share)) / jobs)


def _run_in_processes(
    experiment: Experiment,
    jobs: Sequence[tuple[int, int]],
    workers: int,
    take: Callable[[Trial], None],
) -> None:
    """Call ``take`` with each trial as it ends; an exception ends the processes.

    Raises:
        SimulationStopped: a process was ended from outside, for instance for want of memory.
    """
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=(experiment,),
    )
    try:
        with _interruption_postponed():
            running = [pool.submit(_run_in_worker, *job) for job in jobs]
        for done in as_completed(running):
            take(done.result())
    except BaseException as error:
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        # Waited for: else the pool's thread and the interpreter's end race for one pipe.
        pool.shutdown(cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise SimulationStopped(
                "a process of the simulation was ended from outside, perhaps for want of memory; "
                "give fewer --workers or a shorter trace"
            ) from error
        raise
    pool.shutdown()


@contextmanager
def _interruption_postponed() -> Iterator[None]:
    """Let Ctrl-C wait: a process that it interrupts while it is started would be left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


_worker_experiment: list[Experiment] = []


def _begin_worker(experiment: Experiment) -> None:
    """Keep the experiment in a new process, and leave Ctrl-C to the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker_experiment[:] = [experiment]


def _run_in_worker(column: int, seed: int) -> Trial:
    return run_trial(_worker_experiment[0], column, seed)
