"""Joins a front to the routing service and its routers."""

from collections.abc import Callable

from deployments.directory import TenantAdapters
from deployments.front.admin.front_routers import FrontRouters
from deployments.process import Process, decision_store
from router_service.service import RoutingService


def open_routing(
    process: Process, directory: TenantAdapters
) -> tuple[RoutingService, Callable[[], str]]:
    """Return the routing service, without routers yet, and its store's breaker state."""
    store, codec = decision_store(process)
    routing = RoutingService(
        routers={},
        store=store,
        directory=directory,
        codec=codec,
        clock=process.clock,
        config=process.config.decisions,
        max_mixture=process.config.adapters.max_mixture,
    )
    return routing, lambda: store.breaker_state.value


async def follow_routers(process: Process, routing: RoutingService) -> FrontRouters:
    """Build the routers, and let routing use them, now and after each change."""
    routers = FrontRouters(
        process.adapters,
        process.config,
        process.base,
        lambda built: routing.use(built.routers, built.bound, built.broken),
    )
    await routers.start()
    process.on_close(routers.close)
    process.on_close(routing.close)
    return routers
