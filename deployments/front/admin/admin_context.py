"""The parts of a front that its operator's routes use."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from cluster.config import AppConfig
from deployments.adapter_follower import AdapterFollower
from deployments.front.admin.adapter_admin import AdapterAdmin
from deployments.front.admin.policy_admin import PolicyAdmin
from deployments.front.admin.router_admin import RouterAdmin
from deployments.front.entry.door import Door
from deployments.front.entry.live_tenants import LiveTenants
from deployments.front.replicas.replica_set import ReplicaSet


@dataclass(frozen=True, slots=True)
class AdminContext:
    """Built once by the front deployment; nothing in it is replaced while it serves."""

    door: Door
    app_config: AppConfig
    adapters: AdapterFollower
    adapter_admin: AdapterAdmin
    router_admin: RouterAdmin
    policies: PolicyAdmin
    tenants: LiveTenants
    replicas: ReplicaSet
    identity: Callable[[], dict[str, Any]]
    """Returns version, model and routers, as ``/admin/v1/status`` begins."""
    decision_store: Callable[[], dict[str, Any]]
    """Returns the state of the decision store's breaker, and its counters."""
    controller_state: Callable[[], Awaitable[dict[str, Any]]]
    check_integrity: Callable[[], Awaitable[dict[str, Any]]]
