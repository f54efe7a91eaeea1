"""Bounds how many sequences wait on one replica."""

from collections.abc import Collection

from cluster.config import EngineConfig
from cluster.domain.ids import TenantId
from cluster.engine.scheduling.fair_queue import FairQueue
from cluster.engine.sequence import EngineSequence
from cluster.errors import Overloaded


def refuse_if_full(
    tenant: TenantId,
    config: EngineConfig,
    queue: FairQueue,
    preempted: Collection[EngineSequence],
    running: int,
) -> None:
    """Refuse one more sequence of a tenant if the queue is full.

    A full queue still takes a tenant that has less than an equal share of it.

    Raises:
        Overloaded: with the numbers.
    """
    places = config.max_batch_size - running
    limit = config.max_queued + places
    waiting = len(preempted) + len(queue)
    if waiting < limit:
        return
    own, tenants = waiting, 1
    if config.fairness == "adapter":
        own = queue.waiting_of(tenant)
        own += sum(sequence.request.tenant == tenant for sequence in preempted)
        tenants = queue.tenants + (queue.waiting_of(tenant) == 0)
    if own * tenants >= limit:
        raise Overloaded(
            f"{waiting} requests wait on this replica, {own} of them this tenant's; "
            f"{config.max_queued} may wait besides {places} open places; retry later or elsewhere"
        )
