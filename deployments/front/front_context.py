"""Holds what the HTTP routes of one front process share."""

from dataclasses import dataclass

from cluster.clock import Clock
from cluster.config import FrontConfig
from cluster.waiting.holding import Holding
from deployments.directory import TenantAdapters
from deployments.front.admin.admin_context import AdminContext
from deployments.front.entry.door import Door
from deployments.front.replicas.replica_set import ReplicaSet
from deployments.front.requests.names import ModelNames
from deployments.front.requests.request_service import RequestService
from deployments.front.telemetry.metrics import FrontMetrics


@dataclass(frozen=True, slots=True)
class FrontContext:
    """Built once by the front deployment; nothing in it is replaced while it serves."""

    version: str
    started_at: int  # seconds since the epoch
    config: FrontConfig
    names: ModelNames
    directory: TenantAdapters
    service: RequestService
    door: Door
    replicas: ReplicaSet
    holding: Holding
    metrics: FrontMetrics
    clock: Clock
    admin: AdminContext

    @property
    def router_names(self) -> tuple[str, ...]:
        """Return the names that may follow ``auto:`` now; the first one answers ``auto``."""
        return self.service.routing.router_names
