"""Computes what a recorded log and its simulation are compared by."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from statistics import fmean

from cluster.simulation.result import ServedRequest
from cluster.simulation.trace import TraceRequest


@dataclass(frozen=True, slots=True)
class LogFigures:
    """Holds what a log and its simulation are compared by. Times are in seconds; infinite ones are
    those of requests without an answer."""

    answered: int
    ttft_p50: float
    ttft_p99: float
    e2e_p50: float
    whole_resident: float  # share of requests with adapters that found all on the device


def recorded_figures(requests: Iterable[TraceRequest]) -> LogFigures:
    """Return the figures of the answered requests of a recorded trace."""
    served = [request.served for request in requests if is_answered(request)]
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
    served = [one for one in requests if is_answered(one.asked)]
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


def mean_figures(figures: Sequence[LogFigures]) -> LogFigures:
    """Return the mean of each figure."""
    columns = zip(*map(astuple, figures), strict=True)
    answered, *others = (fmean(column) for column in columns)
    return LogFigures(round(answered), *others)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the least value that at least ``share`` of all do not exceed; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def is_answered(request: TraceRequest) -> bool:
    """Report whether the log has an answer with its times."""
    served = request.served
    return served is not None and served.outcome == "ok" and served.ttft is not None


def _figures(answered: int, ttft: list[float], e2e: list[float], tiers: list[str]) -> LogFigures:
    with_adapters = [tier for tier in tiers if tier not in ("", "base")]
    whole = with_adapters.count("device") / len(with_adapters) if with_adapters else 1.0
    return LogFigures(
        answered, percentile(ttft, 0.5), percentile(ttft, 0.99), percentile(e2e, 0.5), whole
    )
