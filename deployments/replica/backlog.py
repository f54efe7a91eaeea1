"""Adds up the prompt tokens that wait on a replica, for its snapshot."""

from collections import Counter
from collections.abc import Mapping

from cluster.domain.ids import TenantId
from cluster.domain.replica import OTHERS

MAX_TENANTS = 16


def sum_backlog(*parts: Mapping[TenantId, int]) -> tuple[tuple[TenantId, int], ...]:
    """Return the tokens by tenant, most first, ``OTHERS`` last if there are too many tenants."""
    tokens: Counter[TenantId] = Counter()
    for part in parts:
        tokens.update(part)
    ordered = sorted(tokens.items(), key=lambda item: (-item[1], item[0]))
    kept, rest = ordered[:MAX_TENANTS], ordered[MAX_TENANTS:]
    if rest:
        kept.append((OTHERS, sum(count for _, count in rest)))
    return tuple(kept)
