"""Divides the prompt tokens of a step among tenants by weight.

Else a tenant with long prompts under way would keep the prompts of all others waiting.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import ceil, inf
from typing import NamedTuple

from cluster.domain.ids import TenantId
from cluster.engine.scheduling.admission_order import AdmissionOrder
from cluster.engine.scheduling.step_limit import StepLimit
from cluster.engine.sequence import EngineSequence


class PromptBudget(NamedTuple):
    """The prompt tokens of one step."""

    tokens: int
    kept: int  # of these, for tenants that have no prompt under way and wait for a row
    weights: Mapping[TenantId, float]  # of the tenants that share them; none if they do not


def prompt_budget(
    order: AdmissionOrder,
    limit: StepLimit,
    running: Iterable[EngineSequence],
    under_way: Collection[TenantId],
    room: int,
    *,
    answers: bool,
) -> PromptBudget:
    """Return the prompt tokens of a step, ``room`` at most.

    Args:
        under_way: tenants with prompts that are partly computed.
        answers: some sequences get their next token by this step.
    """
    weights = order.sharing_prompts(under_way) if under_way else {}
    promised_s = min([sequence.request.itl_s for sequence in running], default=inf)
    tokens = limit.prompt_tokens(promised_s, room, alone=not (answers or weights))
    return PromptBudget(tokens, kept_for_waiting(weights, under_way, tokens), weights)


def kept_for_waiting(
    weights: Mapping[TenantId, float], under_way: Collection[TenantId], budget: int
) -> int:
    """Return the tokens that tenants get which have no prompt under way, and wait for a row.

    Args:
        weights: of all tenants with prompts to compute; none if they do not share.
    """
    waiting = [weight for tenant, weight in weights.items() if tenant not in under_way]
    return ceil(budget * sum(waiting) / sum(weights.values())) if waiting else 0


def split_prompts(
    asked: Sequence[tuple[TenantId, int]], weights: Mapping[TenantId, float], budget: int
) -> list[int]:
    """Divide tokens among prompts under way; what a tenant leaves of its share goes to the oldest.

    Args:
        asked: tenant and tokens of each prompt, the oldest first.
        weights: of the tenants; without any, the oldest come first.
    """
    counts = [0] * len(asked)
    total = sum([weights[tenant] for tenant in {tenant for tenant, _ in asked}]) if weights else 0
    if total:
        left = {tenant: ceil(budget * weights[tenant] / total) for tenant, _ in asked}
        for index, (tenant, tokens) in enumerate(asked):
            counts[index] = count = min(tokens, left[tenant], budget)
            left[tenant] -= count
            budget -= count
    for index, (_, tokens) in enumerate(asked):
        more = min(tokens - counts[index], budget)
        counts[index] += more
        budget -= more
    return counts
