"""Fits the cost model to what replicas report.

All replicas run one model on one kind of engine, so all feed one fit; a factor of each replica says
how it differs. Differences of totals are exact observations, however long the time between them.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, Literal

from cluster.domain.ids import ReplicaId
from cluster.domain.work import LoadTotals, StepTotals, WorkTotals
from cluster.placement.cost.linear_fit import LinearFit
from cluster.placement.cost.model import CostModel, LoadCost, StepCost
from cluster.placement.cost.pace import ReplicaPace

HALF_LIFE_S = 600.0
LONGEST_GAP_S = 10.0
"""Longer times between two observations forget no more than this one: idle hours teach nothing."""
PRIOR_STEPS_S = 60.0  # that the prior counts as
LEAST_STEPS_S = 30.0
PRIOR_LOADS = 10.0
LEAST_LOADS = 5.0
STARTS = 10  # newest ones that count
SLOW_START = 0.9  # quantile

PriorSource = Literal["profile", "default"]
"""Defaults are a guess: they were measured on another machine."""

STEP_FEATURES = tuple(field.name for field in fields(StepTotals) if field.name != "seconds")
STEP_NAMES = tuple(field.name for field in fields(StepCost))
"""Coefficients, in the order of ``STEP_FEATURES``."""


class CostFit:
    """Learns costs from totals; one owner. Times are monotonic seconds of its process.

    Args:
        prior: costs to begin with, and to keep where the observations explain too little.
        source: what the prior is, for people.
    """

    def __init__(self, prior: CostModel, source: PriorSource = "default") -> None:
        self._prior = prior
        self._source: PriorSource = source
        self._steps = LinearFit(
            _steps_of(prior),
            guess=source == "default",
            prior_mass=PRIOR_STEPS_S,
            least_mass=LEAST_STEPS_S,
        )
        self._loads = {
            # Loads of one size differ a lot on a busy machine: their mean is worth knowing all the
            # same, so no share of it must be explained.
            tier: LinearFit(
                _loads_of(cost),
                guess=source == "default",
                prior_mass=PRIOR_LOADS,
                least_mass=LEAST_LOADS,
                least_r2=0.0,
            )
            for tier, cost in _tiers(prior).items()
        }
        self._starts: deque[float] = deque(maxlen=STARTS)
        self._totals: dict[ReplicaId, WorkTotals] = {}
        self._heard: dict[ReplicaId, float] = {}
        self._paces: dict[ReplicaId, ReplicaPace] = {}
        self._observed_at: float | None = None
        self._model: CostModel | None = None

    def observe(self, replica_id: ReplicaId, totals: WorkTotals, now: float) -> None:
        """Take in a replica's totals; the first ones only tell where they stand.

        So do totals below the last ones: of one life of a replica, they are late.
        """
        before, heard = self._totals.get(replica_id), self._heard.get(replica_id, now)
        if before is None or _went_back(before, totals):
            self._totals[replica_id], self._heard[replica_id] = totals, now
            self._paces.setdefault(replica_id, ReplicaPace(len(STEP_FEATURES)))
            self._model = None
            return
        self._heard[replica_id] = now
        steps = totals.steps.since(before.steps)
        loads = {
            "host": totals.host_loads.since(before.host_loads),
            "disk": totals.disk_loads.since(before.disk_loads),
        }
        self._totals[replica_id] = totals
        x, worked = _features(steps), steps.seconds > 0
        if worked or any(load.loads for load in loads.values()):
            self._forget_until(now)
        if worked and self._steps.observe(x, steps.seconds, steps.seconds):
            self._paces[replica_id].note(x, steps.seconds, now - heard)
        else:
            self._paces[replica_id].note([0.0] * len(x), 0.0, now - heard)
        for tier, load in loads.items():
            if load.loads:
                self._loads[tier].observe((load.loads, load.nbytes), load.seconds, load.loads)
        self._model = None

    def replace_starts(self, seconds: Iterable[float]) -> None:
        """Take in how long the last starts took, oldest first, in place of those known so far."""
        took = (one for one in seconds if math.isfinite(one) and one >= 0)
        self._starts = deque(took, maxlen=STARTS)
        self._model = None

    def remove_replica(self, replica_id: ReplicaId) -> None:
        """Drop a replica that is gone; what it taught stays."""
        for known in (self._totals, self._heard, self._paces):
            known.pop(replica_id, None)
        self._model = None

    def replace_prior(self, prior: CostModel, source: PriorSource) -> None:
        """Take other costs to begin with; what was observed stays."""
        self._prior, self._source = prior, source
        guess = source == "default"
        self._steps.replace_prior(_steps_of(prior), guess)
        for tier, cost in _tiers(prior).items():
            self._loads[tier].replace_prior(_loads_of(cost), guess)
        self._model = None

    @property
    def model(self) -> CostModel:
        """Return the costs in force."""
        if self._model is None:
            coefficients = self._steps.coefficients
            host, disk = (self._loads[tier].coefficients for tier in ("host", "disk"))
            self._model = replace(
                self._prior,
                step=StepCost(*coefficients),
                host_load=LoadCost(*host),
                disk_load=LoadCost(*disk),
                start_s=self._start_s(),
                measured=self._source == "profile" or self._steps.rules,
                slowness={
                    replica_id: pace.slowness(coefficients)
                    for replica_id, pace in self._paces.items()
                },
            )
        return self._model

    def describe(self) -> dict[str, Any]:
        """Return coefficients, standard errors, R2 and residuals by replica, for people."""
        model = self.model
        return {
            "rules": "fit" if self._steps.rules else self._source,
            "prior": self._source,
            "step": {
                "observed_s": self._steps.mass,
                "r2": self._steps.r2,
                "coefficients": _described(self._steps, STEP_NAMES, _STEP_UNITS),
            },
            "loads": {
                tier: {
                    "rules": "fit" if fit.rules else self._source,
                    "observed_loads": fit.mass,
                    "r2": fit.r2,
                    "coefficients": _described(fit, _LOAD_NAMES, _LOAD_UNITS),
                }
                for tier, fit in self._loads.items()
            },
            "start": {"seconds": model.start_s, "observed": list(self._starts)},
            "replicas": {
                replica_id: {
                    "slowness": model.slowness[replica_id],
                    "residual": model.slowness[replica_id] - 1.0,
                    "busy_s": pace.busy_s,
                }
                for replica_id, pace in self._paces.items()
            },
        }

    def to_state(self) -> dict[str, Any]:
        """Return what a later owner needs, JSON-able; neither replicas nor starts are in it."""
        return {
            "steps": self._steps.to_state(),
            "loads": {tier: fit.to_state() for tier, fit in self._loads.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take in what an earlier owner's ``to_state`` said, as far as it had the same prior.

        It counts as observed right before what this one has observed.
        """
        self._steps.restore(_mapping(state.get("steps")))
        for tier, saved in _mapping(state.get("loads")).items():
            if tier in self._loads:
                self._loads[tier].restore(_mapping(saved))
        self._model = None

    def _forget_until(self, now: float) -> None:
        if self._observed_at is not None:
            gap = min(max(now - self._observed_at, 0.0), LONGEST_GAP_S)
            if gap:
                factor = 0.5 ** (gap / HALF_LIFE_S)
                for fit in (self._steps, *self._loads.values()):
                    fit.forget(factor)
        self._observed_at = max(now, self._observed_at or now)

    def _start_s(self) -> float:
        if not self._starts:
            return self._prior.start_s
        ordered = sorted(self._starts)
        return ordered[math.ceil(SLOW_START * len(ordered)) - 1]


_STEP_UNITS = ("s", "s/token", "s/row", "s/block", "s/byte", "s/rank")
_LOAD_NAMES = tuple(field.name for field in fields(LoadCost))
_LOAD_UNITS = ("s", "s/byte")


def _described(
    fit: LinearFit, names: tuple[str, ...], units: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    rows = zip(
        names, units, fit.coefficients, fit.fitted, fit.standard_errors(), fit.prior, strict=True
    )
    return {
        name: {"value": value, "unit": unit, "fitted": fitted, "error": error, "prior": prior}
        for name, unit, value, fitted, error, prior in rows
    }


def _steps_of(model: CostModel) -> tuple[float, ...]:
    return tuple(getattr(model.step, name) for name in STEP_NAMES)


def _loads_of(cost: LoadCost) -> tuple[float, float]:
    return cost.latency, cost.per_byte


def _tiers(model: CostModel) -> dict[str, LoadCost]:
    return {"host": model.host_load, "disk": model.disk_load}


def _features(work: StepTotals) -> tuple[float, ...]:
    return tuple(getattr(work, name) for name in STEP_FEATURES)


def _went_back(before: WorkTotals, after: WorkTotals) -> bool:
    old, new = before.steps, after.steps
    return (
        any(a < b for a, b in zip(_features(new), _features(old), strict=True))
        or new.seconds < old.seconds
        or _loads_went_back(before.host_loads, after.host_loads)
        or _loads_went_back(before.disk_loads, after.disk_loads)
    )


def _loads_went_back(old: LoadTotals, new: LoadTotals) -> bool:
    return new.loads < old.loads or new.nbytes < old.nbytes or new.seconds < old.seconds


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
