"""Costs of steps and loads, fitted to the readings of a recording's first part.

The costs that a cluster gives at the end have seen the whole recording, and are the defaults where
they explain too little; these have seen only what a calibration may see.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace

from benchmarks.placement.recording.work_log import WorkReading
from cluster.domain.ids import ReplicaId
from cluster.domain.work import LoadTotals, StepTotals, WorkTotals
from cluster.placement.cost.linear_fit import LinearFit
from cluster.placement.cost.model import CostModel, LoadCost, StepCost

PRIOR_S = 5.0
"""Seconds of steps that the prior counts as: little, since it is of another machine."""
PRIOR_LOADS = 2.0
CROWDINGS = tuple(step / 20 for step in range(41))
FEATURES = tuple(field.name for field in fields(StepTotals) if field.name != "seconds")

Work = dict[ReplicaId, WorkTotals]


@dataclass(frozen=True, slots=True)
class FittedCosts:
    """Explains the times that were read."""

    model: CostModel
    crowding: float  # of ``SimulationSpec``
    r2: float  # share of the steps' squared seconds that is explained


@dataclass(frozen=True, slots=True)
class _Window:
    """The steps of one replica from one look to the next."""

    steps: StepTotals
    others: float  # replicas that computed meanwhile, on average


def fitted_costs(prior: CostModel, readings: Iterable[WorkReading], until: float) -> FittedCosts:
    """Return the costs that explain the readings before ``until``.

    Args:
        prior: what the readings say nothing about.
        until: seconds since the load began.
    """
    looks = _looks(reading for reading in readings if reading.at < until)
    loads = [
        LinearFit(astuple(cost), prior_mass=PRIOR_LOADS, least_mass=0.0, least_r2=0.0)
        for cost in (prior.host_load, prior.disk_load)
    ]
    windows: list[_Window] = []
    for (begin, before), (end, after) in itertools.pairwise(looks):
        there = [one for one in after if one in before]
        pairs = [(before[one], after[one]) for one in there]
        done = [new.steps.since(old.steps) for old, new in pairs]
        computing = [steps.seconds / (end - begin) for steps in done]
        windows += [
            _Window(steps, sum(computing) - own)
            for one, steps, own in zip(there, done, computing, strict=True)
            if steps.steps
        ]
        for old, new in pairs:
            _observe_loads(loads[0], new.host_loads.since(old.host_loads))
            _observe_loads(loads[1], new.disk_loads.since(old.disk_loads))
    crowding, steps = max(
        ((crowding, _fit_steps(prior.step, windows, crowding)) for crowding in CROWDINGS),
        key=lambda found: found[1].r2,
    )
    model = replace(
        prior,
        step=StepCost(*_found(steps)),
        host_load=LoadCost(*_found(loads[0])),
        disk_load=LoadCost(*_found(loads[1])),
    )
    return FittedCosts(model, crowding, steps.r2)


def _looks(readings: Iterable[WorkReading]) -> list[tuple[float, Work]]:
    """Return the moments of readings, by time, with the totals of all replicas."""
    moments: dict[float, Work] = defaultdict(dict)
    for reading in readings:
        moments[reading.at][reading.replica] = reading.work
    return sorted(moments.items(), key=lambda look: look[0])


def _fit_steps(prior: StepCost, windows: Iterable[_Window], crowding: float) -> LinearFit:
    fit = LinearFit(astuple(prior), prior_mass=PRIOR_S, least_mass=0.0, least_r2=0.0)
    for window in windows:
        slower, steps = 1.0 + crowding * window.others, window.steps
        x = [slower * getattr(steps, name) for name in FEATURES]
        fit.observe(x, steps.seconds, steps.seconds)
    return fit


def _observe_loads(fit: LinearFit, done: LoadTotals) -> None:
    if done.loads:
        fit.observe((done.loads, done.nbytes), done.seconds, done.loads)


def _found(fit: LinearFit) -> Sequence[float]:
    return fit.fitted if fit.mass else fit.prior
