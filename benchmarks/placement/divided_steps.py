"""Divides the seconds of steps between prompts and all else, as recorded times of requests say.

Sums over seconds tell well how long steps take in all, and badly which part of that prompts take:
where many prompts come, everything is more. How long requests wait for their first and last tokens
tells it.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.placement.fitted_costs import FittedCosts
from cluster.placement.cost.model import StepCost
from cluster.simulation.calibrate import Simulate, percentile
from cluster.simulation.spec import SimulationSpec

FACTORS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.5)
SHARES = (0.25, 0.5, 0.75, 0.9)


def divide_steps(costs: FittedCosts, spec: SimulationSpec, simulate: Simulate) -> FittedCosts:
    """Return the costs whose simulation is next to what was recorded.

    Args:
        spec: the recorded cluster and the requests to look at.
    """
    candidates = [step for step in (shifted(costs, factor) for factor in FACTORS) if step]
    best = min(candidates, key=lambda step: _distance(costs, step, spec, simulate))
    return replace(costs, model=replace(costs.model, step=best))


def shifted(costs: FittedCosts, factor: float) -> StepCost | None:
    """Return costs with another price of prompts, and equal seconds of all work that was seen.

    None: prompts alone would take longer.
    """
    step, work = costs.model.step, costs.work
    prompts = step.per_prefill_token * work.prefill_tokens + step.per_rank_row * work.rank_rows
    whole = step.seconds(work)
    if not whole > prompts:
        return step if factor == 1 else None
    others = (whole - factor * prompts) / (whole - prompts)
    if others <= 0:
        return None
    return StepCost(
        per_step=others * step.per_step,
        per_prefill_token=factor * step.per_prefill_token,
        per_decode_row=others * step.per_decode_row,
        per_context_block=others * step.per_context_block,
        per_adapter_byte=others * step.per_adapter_byte,
        per_rank_row=factor * step.per_rank_row,
    )


def _distance(
    costs: FittedCosts, step: StepCost, spec: SimulationSpec, simulate: Simulate
) -> float:
    """Return how far first and last tokens are from the recorded ones; 0 if they agree."""
    model = replace(costs.model, step=step)
    result = simulate(replace(spec, model=model, crowding=costs.crowding))
    pairs = [
        (one, one.asked.served)
        for one in result.requests
        if one.outcome == "ok" and one.asked.served is not None and one.asked.served.outcome == "ok"
    ]
    found = [[one.ttft or 0.0 for one, _ in pairs], [one.e2e or 0.0 for one, _ in pairs]]
    wanted = [[served.ttft or 0.0 for _, served in pairs], [served.e2e for _, served in pairs]]
    return sum(map(_apart, found, wanted))


def _apart(found: Sequence[float], wanted: Sequence[float]) -> float:
    total = 0.0
    for share in SHARES:
        one, other = percentile(found, share), percentile(wanted, share)
        total += abs(math.log(one / other)) if one > 0 and other > 0 else math.inf
    return total
