"""The first steps of a front's requests, for routes that are tested without a front."""

from cluster.clock import SystemClock
from cluster.config import FrontConfig
from cluster.tenancy.quota import MemoryQuota
from cluster.tenancy.tenants import TenantDirectory
from deployments.front.entry.door import Door
from deployments.front.entry.heavy import HeavyWork
from deployments.front.requests.admission import Admission


def make_door(tenants: TenantDirectory, **config: object) -> Door:
    """Make a door with its quota in memory; ``config`` are fields of the front's."""
    clock = SystemClock()
    return Door(
        authenticate=lambda request: tenants.authenticate(request.headers.get("authorization")),
        admission=Admission(MemoryQuota(clock, 60)),
        work=HeavyWork(),
        config=FrontConfig.model_validate(config),
        clock=clock,
    )
