"""Bounds how many sequences wait on one replica."""

from cluster.config import EngineConfig
from cluster.domain.request import GenerationRequest
from cluster.engine.scheduling.row_shares import RowShares
from cluster.errors import Overloaded
from cluster.tenancy.shares import has_share


def refuse_if_full(
    request: GenerationRequest, config: EngineConfig, shares: RowShares, waiting: int, running: int
) -> None:
    """Refuse one more sequence if the queue is full.

    A full queue still takes a tenant that has less than its share of it.

    Args:
        waiting: sequences of all tenants.
        running: sequences in the batch.

    Raises:
        Overloaded: with the numbers.
    """
    places = config.max_batch_size - running
    limit = config.max_queued + places
    if waiting < limit:
        return
    tenant, own, weights = request.tenant, waiting, {request.tenant: request.weight}
    if config.fairness == "adapter":
        own = shares.waiting_of(tenant)
        weights = shares.waiting_weights() | weights
    if has_share(own, limit, tenant, weights):
        raise Overloaded(
            f"{waiting} requests wait on this replica, {own} of them this tenant's; "
            f"{config.max_queued} may wait besides {places} open places; retry later or elsewhere"
        )
