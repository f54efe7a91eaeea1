"""Fits the simulator's delays to a recorded log, and judges the result on the rest of it.

Steps, loads and starts are measured in the cluster. What no counter has is how long a front and a
hop take, and how often a replica publishes its state. These are fitted on the log's first half; the
second half, which the fit has not seen, says how far the simulator can be trusted.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from cluster.errors import ConfigError
from cluster.simulation.result import ServedRequest, SimulationResult
from cluster.simulation.spec import Delays, SimulationSpec
from cluster.simulation.trace import TraceRequest

FITTED = {"front_s": (1e-4, 0.25), "hop_s": (1e-5, 0.05), "publish_s": (0.005, 1.0)}
"""Fields of ``Delays`` with their least and greatest seconds, the one that explains most first.

A log that needs more than these is explained by other costs of steps and loads, not by delays.
"""
FACTORS = (4.0, 2.0, 1.4, 1.15)
"""A constant is multiplied and divided by each in turn, for as long as that helps."""
GAIN = 0.005
"""Of the loss; a smaller gain does not count."""
LEAST_REQUESTS = 40
"""Answered ones, of each half."""
RED = 0.15
"""An error above this share makes reports unreliable."""

Simulate = Callable[[SimulationSpec], SimulationResult]


@dataclass(frozen=True, slots=True)
class LogFigures:
    """Holds what a log and its simulation are compared by. Times are in seconds."""

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

    @property
    def worst(self) -> float:
        """Return the largest of the errors, without its sign; infinity if one is not a number."""
        errors = (self.ttft_p50, self.ttft_p99, self.e2e_p50, self.whole_resident, self.replicas)
        return max(math.inf if math.isnan(error or 0.0) else abs(error or 0.0) for error in errors)

    @property
    def is_red(self) -> bool:
        """Return whether an error is so large that reports should say so."""
        return self.worst > RED

    @property
    def words(self) -> list[str]:
        """Return one line for each error."""
        lines = [
            f"TTFT p50 {self.ttft_p50:+.1%}",
            f"TTFT p99 {self.ttft_p99:+.1%}",
            f"end-to-end p50 {self.e2e_p50:+.1%}",
            f"whole-resident share {100 * self.whole_resident:+.1f} points",
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


def calibrate(
    spec: SimulationSpec, simulate: Simulate, counts: Sequence[tuple[float, int]] = ()
) -> Calibration:
    """Fit the delays of ``spec`` to its trace, which must be a recorded one.

    Requests of which it does not say what became are simulated too, and count for no figure.

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
    search = _Search(replace(spec, trace=first), simulate, recorded_figures(first))
    delays = search.run(spec.delays)
    spec = replace(spec, trace=trace, delays=delays)
    whole = simulate(spec)
    return Calibration(
        delays,
        errors_of(spec, whole, counts),
        recorded_figures(second),
        simulated_figures(whole, len(first)),
        search.simulations + 1,
    )


def errors_of(
    spec: SimulationSpec, result: SimulationResult, counts: Sequence[tuple[float, int]] = ()
) -> CalibrationErrors:
    """Compare the second half of a recorded trace, which is in order, with its simulation.

    Args:
        counts: as ``calibrate`` takes them.
    """
    middle = middle_of(spec.trace)
    second = [request for request in spec.trace if request.at >= middle]
    recorded = recorded_figures(second)
    simulated = simulated_figures(result, len(spec.trace) - len(second))
    return CalibrationErrors(
        _relative(simulated.ttft_p50, recorded.ttft_p50),
        _relative(simulated.ttft_p99, recorded.ttft_p99),
        _relative(simulated.e2e_p50, recorded.e2e_p50),
        simulated.whole_resident - recorded.whole_resident,
        _count_error(result, counts, middle) if counts else None,
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
        [one.ttft for one in found if one.ttft is not None],
        [one.e2e for one in found],
        [one.tier_found for one in found],
    )


def simulated_figures(result: SimulationResult, first: int = 0) -> LogFigures:
    """Return the figures of a simulation's requests that were answered there and in the log.

    Args:
        first: number of the first one that counts.
    """
    served = [
        one for one in result.requests[first:] if one.outcome == "ok" and _is_answered(one.asked)
    ]
    return _figures(
        [one.ttft for one in served if one.ttft is not None],
        [one.e2e for one in served if one.e2e is not None],
        [_tier_known(one) for one in served],
    )


def _tier_known(served: ServedRequest) -> str:
    """Return the tier as the front knew it when it picked, which is what a log has."""
    if served.tier_found == "base":
        return "base"
    return "loading" if served.cold else "device"


class _Search:
    """Changes one constant after the other for as long as the loss falls."""

    def __init__(self, spec: SimulationSpec, simulate: Simulate, recorded: LogFigures) -> None:
        self._spec = spec
        self._simulate = simulate
        self._recorded = recorded
        self.simulations = 0

    def run(self, delays: Delays) -> Delays:
        delays, loss = self._shift_front(delays)
        for factor in FACTORS:
            for name in FITTED:
                for by in (factor, 1 / factor):
                    tried = _with(delays, name, getattr(delays, name) * by)
                    found = self._loss(self._figures(tried))
                    if found < loss * (1 - GAIN):
                        delays, loss = tried, found
                        break
        return delays

    def _shift_front(self, delays: Delays) -> tuple[Delays, float]:
        """Move all first tokens by the difference of their medians: a front's time is added to
        each."""
        before = self._figures(delays)
        loss = self._loss(before)
        front = delays.front_s + self._recorded.ttft_p50 - before.ttft_p50
        shifted = _with(delays, "front_s", front)
        found = self._loss(self._figures(shifted))
        return (shifted, found) if found < loss else (delays, loss)

    def _figures(self, delays: Delays) -> LogFigures:
        self.simulations += 1
        return simulated_figures(self._simulate(replace(self._spec, delays=delays)))

    def _loss(self, found: LogFigures) -> float:
        """Return the sum of the figures' distances; 0 if they agree."""
        wanted = self._recorded
        return (
            _distance(found.ttft_p50, wanted.ttft_p50)
            + _distance(found.ttft_p99, wanted.ttft_p99)
            + _distance(found.e2e_p50, wanted.e2e_p50)
            + abs(found.whole_resident - wanted.whole_resident)
        )


def _with(delays: Delays, name: str, seconds: float) -> Delays:
    least, most = FITTED[name]
    return replace(delays, **{name: min(max(seconds, least), most)})


def _is_answered(request: TraceRequest) -> bool:
    served = request.served
    return served is not None and served.outcome == "ok" and served.ttft is not None


def _figures(ttft: list[float], e2e: list[float], tiers: list[str]) -> LogFigures:
    with_adapters = [tier for tier in tiers if tier not in ("", "base")]
    whole = with_adapters.count("device") / len(with_adapters) if with_adapters else 1.0
    return LogFigures(
        len(ttft), percentile(ttft, 0.5), percentile(ttft, 0.99), percentile(e2e, 0.5), whole
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
        return math.inf
    return abs(math.log(found / wanted))


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
