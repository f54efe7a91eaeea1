"""Shows the scaler what it is to decide on, without a loop around it."""

from dataclasses import replace

from cluster.placement.cost.model import CostModel, StepCost
from cluster.placement.demand.demand import Demand, DemandRate
from cluster.placement.scaling.count import CountScaler, ScaleDecision, ScaleInputs
from tests.support.scale_loop import WIDE, ScaleLoop, key

COSTLY = CostModel(step=StepCost(0.0, 0.007, 0.0, 0.0, 0.0))  # .7 s for 100 prompt tokens


def demand(rate: float, *adapters: str, tenant: str = "acme", prompt: float = 100.0) -> DemandRate:
    which = key(tenant, *adapters)
    return DemandRate(which, rate, rate, rate, prompt, 0.0, fast=rate, slow=rate)


def inputs(*rates: DemandRate, target: int = 1, **changes: object) -> ScaleInputs:
    loop = ScaleLoop(WIDE, COSTLY, count=target)
    return loop.inputs(Demand(rates), **changes)


def settle(
    scaler: CountScaler, given: ScaleInputs, seconds: int, begin: float = 0.0
) -> ScaleDecision:
    for second in range(seconds):
        decision = scaler.decide(given, float(second))
        given = replace(given, target=decision.count, ready=decision.count)
    return decision
