"""Fits the simulator's delays to a recorded log, and judges the result on the rest of it.

Steps, loads and starts are measured in the cluster. What no counter has is how long a front and a
hop take, and how often a replica publishes its state. These are fitted on the log's first half; the
second half, which the fit has not seen, says how far the simulator can be trusted.

Where replicas load and evict, a millisecond decides which adapter stays, and one simulation is one
of many courses that were as likely. The second half is therefore simulated several times, with
arrivals nudged by less than a log knows, and judged by the mean.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from random import Random
from statistics import fmean

from cluster.errors import ConfigError
from cluster.simulation.delay_search import search_delays, with_delay
from cluster.simulation.log_figures import (
    LogFigures,
    is_answered,
    mean_figures,
    recorded_figures,
    simulated_figures,
)
from cluster.simulation.result import ServedRequest, SimulationResult
from cluster.simulation.spec import Delays, SimulationSpec
from cluster.simulation.trace import TraceRequest

LEAST_REQUESTS = 40
"""Answered ones, of each half."""
RED = 0.15
"""An error above this share makes reports unreliable."""
FARTHEST = 5.0
"""A figure that the simulation never reaches is as far off as one that is e to this times too long:
the other figures still guide the fit."""
CANCELLED = "cancelled"
"""Outcome of a request whose client hung up, as no simulated client does."""

COURSES = 8
"""Simulations of the whole trace that the judgement is the mean of."""
NUDGE_S = 0.001
"""Arrivals come up to so much later in all courses but the first."""

Simulate = Callable[[SimulationSpec], SimulationResult]


@dataclass(frozen=True, slots=True)
class CalibrationErrors:
    """Differences between a recorded log and its simulation."""

    ttft_p50: float  # relative to what was recorded, like the next two; above 0: simulated longer
    ttft_p99: float
    e2e_p50: float
    whole_resident: float  # difference of the shares
    replicas: float | None  # mean relative difference over time; None: no counts were recorded
    lost: float = 0.0  # share of the requests that the log answered and the simulation did not
    won: float = 0.0  # share of those that the simulation answered and the log did not

    @property
    def worst(self) -> float:
        """Return the largest of the errors, without its sign; infinity if one is not a number."""
        errors = [getattr(self, field.name) or 0.0 for field in fields(self)]
        return max(math.inf if math.isnan(error) else abs(error) for error in errors)

    @property
    def is_red(self) -> bool:
        """Return whether an error is so large that reports should say so."""
        return self.worst > RED

    @property
    def words(self) -> list[str]:
        """Return one line for each error."""
        lines = [
            f"TTFT p50 {_off(self.ttft_p50)}",
            f"TTFT p99 {_off(self.ttft_p99)}",
            f"end-to-end p50 {_off(self.e2e_p50)}",
            f"whole-resident share {100 * self.whole_resident:+.1f} points",
            f"answered in the log alone {self.lost:.1%}, in the simulation alone {self.won:.1%}",
        ]
        if self.replicas is not None:
            lines.append(f"replicas over time {self.replicas:.1%}")
        if self.is_red:
            lines.append(f"an error is above {RED:.0%}: do not rely on absolute figures")
        return lines


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fitted delays, and what they are worth."""

    delays: Delays
    errors: CalibrationErrors  # on the second half
    recorded: LogFigures  # of the second half
    simulated: LogFigures  # of the second half, means over its courses
    simulations: int  # that were needed
    courses: Sequence[Sequence[ServedRequest]] = ()  # of the second half


def calibrate(
    spec: SimulationSpec, simulate: Simulate, counts: Sequence[tuple[float, int]] = ()
) -> Calibration:
    """Fit the delays of ``spec`` to its trace, which must be a recorded one.

    All requests that the log answered count, whether the simulation answers them or not. Those of
    which the log does not say what became are simulated too, and count for no figure.

    Args:
        spec: the cluster as it was when the trace was recorded; its delays are the first guess.
        simulate: runs a simulation.
        counts: (time in the trace, ready replicas) at each change, where they were recorded.

    Raises:
        ConfigError: a half of the trace has too few answered requests to compare.
    """
    trace = sorted(spec.trace, key=lambda request: request.at)
    middle = middle_of(trace)
    first = [request for request in trace if request.at < middle]
    second = trace[len(first) :]
    for name, half in (("first", first), ("second", second)):
        answered = sum(is_answered(request) for request in half)
        if answered < LEAST_REQUESTS:
            raise ConfigError(
                f"the trace's {name} half has {answered} answered requests with recorded times, "
                f"expected at least {LEAST_REQUESTS}; record for longer"
            )
    fit = _Fit(replace(spec, trace=first), simulate, recorded_figures(first))
    delays = fit.run(spec.delays)
    runs = [
        simulate(replace(spec, trace=_nudged(trace, number), delays=delays))
        for number in range(COURSES)
    ]
    courses = [run.requests[len(first) :] for run in runs]
    simulated = mean_figures([simulated_figures(course) for course in courses])
    recorded = recorded_figures(second)
    return Calibration(
        delays,
        _compare(
            simulated,
            recorded,
            fmean(_count_error(run, counts, middle) for run in runs) if counts else None,
            [_disagreements(course) for course in courses],
        ),
        recorded,
        simulated,
        fit.simulations + COURSES,
        courses,
    )


def errors_of(requests: Sequence[ServedRequest]) -> CalibrationErrors:
    """Compare one course of simulated requests with what was recorded of them."""
    return _compare(
        simulated_figures(requests),
        recorded_figures(one.asked for one in requests),
        None,
        [_disagreements(requests)],
    )


def _compare(
    simulated: LogFigures,
    recorded: LogFigures,
    replicas: float | None,
    disagreements: Sequence[tuple[float, float]],
) -> CalibrationErrors:
    return CalibrationErrors(
        _relative(simulated.ttft_p50, recorded.ttft_p50),
        _relative(simulated.ttft_p99, recorded.ttft_p99),
        _relative(simulated.e2e_p50, recorded.e2e_p50),
        simulated.whole_resident - recorded.whole_resident,
        replicas,
        fmean(lost for lost, _ in disagreements),
        fmean(won for _, won in disagreements),
    )


def _nudged(trace: Sequence[TraceRequest], number: int) -> Sequence[TraceRequest]:
    """Return the trace of a course: in the same order, and unchanged in the first."""
    if not number:
        return trace
    draw = Random(number)
    later = itertools.accumulate((one.at + NUDGE_S * draw.random() for one in trace), max)
    return [replace(one, at=at) for one, at in zip(trace, later, strict=True)]


def middle_of(trace: Sequence[TraceRequest]) -> float:
    """Return the time in a recorded trace, which is in order, that divides it into halves."""
    began = next((request.at for request in trace if request.served is not None), 0.0)
    return (began + trace[-1].at) / 2 if trace else 0.0


def _disagreements(requests: Iterable[ServedRequest]) -> tuple[float, float]:
    """Return the shares of requests that the log alone and that the simulation alone answered."""
    pairs = [
        (one.asked.served.outcome == "ok", one.outcome == "ok")
        for one in requests
        if one.asked.served is not None and one.asked.served.outcome != CANCELLED
    ]
    known = max(1, len(pairs))
    return pairs.count((True, False)) / known, pairs.count((False, True)) / known


class _Fit:
    """Fits delays to the recorded figures of a trace, and counts its simulations."""

    def __init__(self, spec: SimulationSpec, simulate: Simulate, recorded: LogFigures) -> None:
        self._spec = spec
        self._simulate = simulate
        self._recorded = recorded
        self.simulations = 0

    def run(self, delays: Delays) -> Delays:
        """Return better delays than these.

        A front's time is added to each first token, so the difference of the medians comes first.
        """
        before = self._figures(delays)
        loss = self._loss(before)
        front = delays.front_s + self._recorded.ttft_p50 - before.ttft_p50
        shifted = with_delay(delays, "front_s", front)
        found = self._loss_of(shifted)
        if found < loss:
            delays, loss = shifted, found
        return search_delays(delays, loss, self._loss_of)

    def _figures(self, delays: Delays) -> LogFigures:
        self.simulations += 1
        return simulated_figures(self._simulate(replace(self._spec, delays=delays)).requests)

    def _loss_of(self, delays: Delays) -> float:
        return self._loss(self._figures(delays))

    def _loss(self, found: LogFigures) -> float:
        """Return the sum of the times' distances; 0 if they agree.

        Delays change what is found on devices by chance alone, so that share is not fitted.
        """
        wanted = self._recorded
        return (
            _distance(found.ttft_p50, wanted.ttft_p50)
            + _distance(found.ttft_p99, wanted.ttft_p99)
            + _distance(found.e2e_p50, wanted.e2e_p50)
        )


def _relative(found: float, wanted: float) -> float:
    return math.inf if not wanted or math.isnan(found) else found / wanted - 1


def _distance(found: float, wanted: float) -> float:
    if not found > 0 or not wanted > 0:
        return FARTHEST
    return min(FARTHEST, abs(math.log(found / wanted)))


def _off(error: float) -> str:
    """Return a relative error in words."""
    return "never reached in the simulation" if error == math.inf else f"{error:+.1%}"


def _count_error(
    result: SimulationResult, counts: Sequence[tuple[float, int]], begin: float
) -> float:
    """Return the mean of |simulated - recorded| / recorded replicas over the looks since
    ``begin``."""
    differences = []
    for sample in result.samples:
        known = [count for at, count in counts if at <= sample.at]
        if sample.at >= begin and known and known[-1]:
            differences.append(abs(sample.ready - known[-1]) / known[-1])
    return sum(differences) / len(differences) if differences else 0.0
