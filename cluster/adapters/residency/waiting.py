"""Requests that wait for adapters, and whose turn it is: no tasks, no loads.

A tenant's requests that need room are served in order of arrival. Between tenants, those go first
that would stay within their shares (``residency.shares``): a flood over many adapters waits
for its own room, not others for the flood. This starves nobody: whoever is passed over holds its
share already, and those before it stop being within theirs as they are served.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cluster.adapters.residency.pool_types import SOMEBODY, Candidate, Lease
from cluster.domain.ids import AdapterDigest, TenantId


@dataclass(slots=True, eq=False)
class Waiter:
    """One ``acquire`` or prefetch, from its arrival until it is answered."""

    wanted: tuple[Candidate, ...]
    future: asyncio.Future[Lease | None]
    tenant: TenantId = SOMEBODY
    gently: bool = False  # of a prefetch: takes no room that anybody has used lately
    lease: Lease | None = None
    awaiting: set[AdapterDigest] = field(default_factory=set)  # admitted, not READY yet
    tried: set[AdapterDigest] = field(default_factory=set)  # begun to be read into the host tier
    holds: list[int] = field(default_factory=list)  # of what is kept there for it
    overtaken: int = 0

    def settle(self, error: Exception | None = None) -> None:
        """Answer it, unless it has been answered or cancelled."""
        if self.future.done():
            return
        if error is None:
            self.future.set_result(self.lease)
        else:
            self.future.set_exception(error)


def in_turn(
    queue: Sequence[Waiter],
    holds: Callable[[Sequence[Candidate]], bool],
    is_within_share: Callable[[Sequence[Candidate], TenantId], bool],
) -> list[Waiter]:
    """The queue in the order in which room is given.

    Args:
        queue: in order of arrival.
        holds: whether versions have their slots already.
        is_within_share: whether a tenant that got them would stay within its share.
    """
    if len({waiter.tenant for waiter in queue}) < 2:
        return list(queue)
    within: dict[TenantId, bool] = {}
    first: list[Waiter] = []
    rest: list[Waiter] = []
    for waiter in queue:
        if holds(waiter.wanted):
            rest.append(waiter)  # after whoever waits for room: it may be closed to newcomers
            continue
        if waiter.tenant not in within:
            within[waiter.tenant] = is_within_share(waiter.wanted, waiter.tenant)
        (first if within[waiter.tenant] else rest).append(waiter)
    return [*first, *rest]
