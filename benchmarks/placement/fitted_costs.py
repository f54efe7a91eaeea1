"""Costs of steps and loads, fitted to the readings of a recording's first part.

The costs that a cluster gives at the end have seen the whole recording, and are the defaults where
they explain too little; these have seen only what a calibration may see.
"""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields, replace

from benchmarks.placement.work_log import WorkReading
from cluster.domain.ids import ReplicaId
from cluster.domain.work import LoadTotals, StepTotals, WorkTotals
from cluster.placement.cost.linear_fit import LinearFit
from cluster.placement.cost.model import CostModel, LoadCost, StepCost

PRIOR_S = 5.0
"""Seconds of steps that the prior counts as: little, since it is of another machine."""
PRIOR_LOADS = 2.0
FEATURES = tuple(field.name for field in fields(StepTotals) if field.name != "seconds")


def fitted_costs(prior: CostModel, readings: Iterable[WorkReading], until: float) -> CostModel:
    """Return the costs that explain the readings before ``until``.

    Args:
        prior: what the readings say nothing about.
        until: seconds since the load began.
    """
    steps = LinearFit(_coefficients(prior.step), prior_mass=PRIOR_S, least_mass=0.0, least_r2=0.0)
    host, disk = (
        LinearFit(_coefficients(cost), prior_mass=PRIOR_LOADS, least_mass=0.0, least_r2=0.0)
        for cost in (prior.host_load, prior.disk_load)
    )
    last: dict[ReplicaId, WorkTotals] = {}
    for reading in readings:
        if reading.at >= until:
            break
        before, work = last.get(reading.replica), reading.work
        last[reading.replica] = work
        if before is None:
            continue
        done = work.steps.since(before.steps)
        if done.steps:
            steps.observe([getattr(done, name) for name in FEATURES], done.seconds, done.seconds)
        _observe_loads(host, work.host_loads.since(before.host_loads))
        _observe_loads(disk, work.disk_loads.since(before.disk_loads))
    return replace(
        prior,
        step=StepCost(*_found(steps)),
        host_load=LoadCost(*_found(host)),
        disk_load=LoadCost(*_found(disk)),
    )


def _observe_loads(fit: LinearFit, done: LoadTotals) -> None:
    if done.loads:
        fit.observe((done.loads, done.nbytes), done.seconds, done.loads)


def _coefficients(cost: StepCost | LoadCost) -> Sequence[float]:
    return astuple(cost)


def _found(fit: LinearFit) -> Sequence[float]:
    return fit.fitted if fit.mass else fit.prior
