"""Fits the simulator's delays to a recorded log, and judges the result on the rest of it.

Steps, loads and starts are measured in the cluster. What no counter has is how long a front and a
hop take, and how often a replica publishes its state. These are fitted on the log's first half; the
second half, which the fit has not seen, says how far the simulator can be trusted.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace

from cluster.errors import ConfigError
from cluster.simulation.delay_search import search_delays, with_delay
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

Simulate = Callable[[SimulationSpec], SimulationResult]


@dataclass(frozen=True, slots=True)
class LogFigures:
    """Holds what a log and its simulation are compared by. Times are in seconds; infinite ones are
    those of requests without an answer."""

    answered: int
    ttft_p50: float
    ttft_p99: float
    e2e_p50: float
    whole_resident: float  # share of requests with adapters that found all on the device


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
    simulated: LogFigures  # of the second half
    simulations: int  # that were needed
    served: Sequence[ServedRequest] = ()  # of the second half


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
        answered = sum(_is_answered(request) for request in half)
        if answered < LEAST_REQUESTS:
            raise ConfigError(
                f"the trace's {name} half has {answered} answered requests with recorded times, "
                f"expected at least {LEAST_REQUESTS}; record for longer"
            )
    fit = _Fit(replace(spec, trace=first), simulate, recorded_figures(first))
    delays = fit.run(spec.delays)
    whole = simulate(replace(spec, trace=trace, delays=delays))
    served = whole.requests[len(first) :]
    return Calibration(
        delays,
        errors_of(served, _count_error(whole, counts, middle) if counts else None),
        recorded_figures(second),
        simulated_figures(served),
        fit.simulations + 1,
        served,
    )


def errors_of(
    requests: Sequence[ServedRequest], replicas: float | None = None
) -> CalibrationErrors:
    """Compare simulated requests with what was recorded of them.

    Args:
        replicas: the error of their number over time, if it was recorded.
    """
    recorded = recorded_figures(one.asked for one in requests)
    simulated = simulated_figures(requests)
    return CalibrationErrors(
        _relative(simulated.ttft_p50, recorded.ttft_p50),
        _relative(simulated.ttft_p99, recorded.ttft_p99),
        _relative(simulated.e2e_p50, recorded.e2e_p50),
        simulated.whole_resident - recorded.whole_resident,
        replicas,
        *_disagreements(requests),
    )


def middle_of(trace: Sequence[TraceRequest]) -> float:
    """Return the time in a recorded trace, which is in order, that divides it into halves."""
    began = next((request.at for request in trace if request.served is not None), 0.0)
    return (began + trace[-1].at) / 2 if trace else 0.0


def recorded_figures(requests: Iterable[TraceRequest]) -> LogFigures:
    """Return the figures of the answered requests of a recorded trace."""
    served = [request.served for request in requests if _is_answered(request)]
    found = [one for one in served if one is not None]
    return _figures(
        len(found),
        [one.ttft for one in found if one.ttft is not None],
        [one.e2e for one in found],
        [one.tier_found for one in found],
    )


def simulated_figures(requests: Iterable[ServedRequest]) -> LogFigures:
    """Return the figures of simulated requests that were answered in the log.

    One without an answer in the simulation waits for ever: were it left out, a simulation that
    refuses the slow ones would look better.
    """
    served = [one for one in requests if _is_answered(one.asked)]
    answered = [one.outcome == "ok" for one in served]
    return _figures(
        sum(answered),
        [math.inf if one.ttft is None else one.ttft for one in served],
        [
            one.e2e if ok and one.e2e is not None else math.inf
            for one, ok in zip(served, answered, strict=True)
        ],
        [_tier_known(one) for one in served],
    )


def _tier_known(served: ServedRequest) -> str:
    """Return the tier as the front knew it when it picked, which is what a log has."""
    if not served.asked.adapters:
        return "base"
    return "device" if served.replica is not None and not served.cold else "loading"


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
        """Return the sum of the figures' distances; 0 if they agree."""
        wanted = self._recorded
        return (
            _distance(found.ttft_p50, wanted.ttft_p50)
            + _distance(found.ttft_p99, wanted.ttft_p99)
            + _distance(found.e2e_p50, wanted.e2e_p50)
            + abs(found.whole_resident - wanted.whole_resident)
        )


def _is_answered(request: TraceRequest) -> bool:
    served = request.served
    return served is not None and served.outcome == "ok" and served.ttft is not None


def _figures(answered: int, ttft: list[float], e2e: list[float], tiers: list[str]) -> LogFigures:
    with_adapters = [tier for tier in tiers if tier not in ("", "base")]
    whole = with_adapters.count("device") / len(with_adapters) if with_adapters else 1.0
    return LogFigures(
        answered, percentile(ttft, 0.5), percentile(ttft, 0.99), percentile(e2e, 0.5), whole
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the least value that at least ``share`` of all do not exceed; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


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
