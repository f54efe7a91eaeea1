"""Holds what the HTTP routes of one front process share."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from cluster.clock import Clock
from cluster.config import AppConfig, FrontConfig
from deployments.directory import TenantAdapters
from deployments.front.admin.adapter_admin import AdapterAdmin
from deployments.front.admin.router_admin import RouterAdmin
from deployments.front.entry.door import Door
from deployments.front.entry.live_tenants import LiveTenants
from deployments.front.requests.names import ModelNames
from deployments.front.requests.replicas import ReplicaSet
from deployments.front.requests.request_service import RequestService
from deployments.front.telemetry.metrics import FrontMetrics
from deployments.live_adapters import LiveAdapters


@dataclass(frozen=True, slots=True)
class FrontContext:
    """Built once by the front deployment; nothing in it is replaced while it serves."""

    version: str
    started_at: int  # seconds since the epoch
    app_config: AppConfig
    config: FrontConfig
    names: ModelNames
    tenants: LiveTenants
    live: LiveAdapters
    adapter_admin: AdapterAdmin
    router_admin: RouterAdmin
    directory: TenantAdapters
    service: RequestService
    door: Door
    replicas: ReplicaSet
    metrics: FrontMetrics
    clock: Clock
    controller_state: Callable[[], Awaitable[dict[str, Any]]]
    breaker_state: Callable[[], str]
    check_integrity: Callable[[], Awaitable[dict[str, Any]]]

    @property
    def router_names(self) -> tuple[str, ...]:
        """Return what may follow ``auto:`` now; the first one answers ``auto``."""
        return self.service.routing.router_names
