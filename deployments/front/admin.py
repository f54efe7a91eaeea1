"""The operator's routes, for tenants marked ``admin``."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from cluster.errors import PermissionDenied
from deployments.front.context import FrontContext
from deployments.front.json_answer import json_answer


def build_admin_routes(context: FrontContext) -> APIRouter:
    """``/admin/v1``: placement, residency, status."""
    routes = APIRouter(prefix="/admin/v1")

    def require_admin(request: Request) -> None:
        tenant = context.tenants.authenticate(request.headers.get("authorization"))
        if not tenant.admin:
            raise PermissionDenied("this needs an administrator's key")

    @routes.get("/placement")
    async def placement(request: Request) -> Response:
        """What the controller wants where, and why."""
        require_admin(request)
        return json_answer(await context.controller_state())

    @routes.get("/residency")
    async def residency(request: Request) -> Response:
        """What each replica truly holds, in its own words."""
        require_admin(request)
        return json_answer({"replicas": [asdict(item) for item in context.replicas.snapshots()]})

    @routes.get("/integrity")
    async def integrity(request: Request) -> Response:
        """Whether the books of every replica's pools balance."""
        require_admin(request)
        return json_answer({"replicas": await context.check_integrity()})

    @routes.get("/status")
    async def status(request: Request) -> Response:
        """Everything at a glance."""
        require_admin(request)
        return json_answer(
            {
                "version": context.version,
                "model": context.names.model_id,
                "routers": list(context.router_names),
                "adapters": [
                    {
                        "name": entry.key.alias,
                        "digest": entry.key.digest,
                        "rank": entry.manifest.rank,
                        "bytes": entry.manifest.nbytes,
                        "description": entry.manifest.description,
                    }
                    for entry in context.catalog.entries.values()
                ],
                "adapter_problems": [asdict(item) for item in context.catalog.problems],
                "tenants": [
                    {"id": tenant.id, "admin": tenant.admin, "adapters": sorted(tenant.adapters)}
                    for tenant in context.tenants.tenants
                ],
                "decision_store": _store_state(context),
                "replicas": [asdict(item) for item in context.replicas.snapshots()],
                "placement": await context.controller_state(),
            }
        )

    return routes


def _store_state(context: FrontContext) -> dict[str, Any]:
    return {"breaker": context.breaker_state(), **asdict(context.service.routing.store.counters)}
