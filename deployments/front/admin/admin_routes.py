"""The operator's routes, for tenants marked ``admin``."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from cluster.adapters.registry.records import Name
from cluster.adapters.registry.registry_view import RegistryView
from cluster.domain.adapter import ResidentAdapter
from cluster.domain.replica import ReplicaSnapshot
from cluster.errors import PermissionDenied
from deployments.front.admin.adapter_wire import TIERS
from deployments.front.admin.admin_context import AdminContext
from deployments.front.http.json_answer import json_answer


def build_admin_routes(context: AdminContext) -> APIRouter:
    """Build the routes under ``/admin/v1``: placement, model, residency, integrity, status."""
    routes = APIRouter(prefix="/admin/v1")

    @routes.get("/placement")
    async def placement(request: Request) -> Response:
        """Show the placement that the controller aims at, and its reasons."""
        await context.door.enter_admin(request)
        return json_answer(await context.controller_state())

    @routes.get("/model")
    async def model(request: Request) -> Response:
        """Show the cost model in force, and how well it explains what replicas report."""
        await context.door.enter_admin(request)
        state = await context.controller_state()
        silent = {"error": state["error"]} if "error" in state else {}
        return json_answer(state.get("model", silent))

    @routes.get("/residency")
    async def residency(request: Request) -> Response:
        """Show the adapters that each replica reports as resident."""
        await context.door.enter_admin(request)
        view = context.adapters.view
        return json_answer(
            {
                "replicas": [
                    _residency(view, item, context.replicas.on_host(item.replica_id))
                    for item in context.replicas.snapshots()
                ]
            }
        )

    @routes.get("/integrity")
    async def integrity(request: Request) -> Response:
        """Check the ledgers of every replica; shows problems, and which did not answer."""
        await context.door.enter_admin(request)
        return json_answer(await context.check_integrity())

    @routes.get("/status")
    async def status(request: Request) -> Response:
        """Show everything at a glance."""
        await context.door.enter_admin(request)
        view = context.adapters.view
        names = sorted(view.names.values(), key=lambda name: (name.alias, name.owner))
        return json_answer(
            {
                **context.identity(),
                "adapters": [_adapter(view, name) for name in names],
                "adapter_problems": [asdict(item) for item in context.adapters.catalog.problems],
                "tenants": [
                    {
                        "id": tenant.id,
                        "admin": tenant.admin,
                        "metrics": tenant.metrics,
                        "weight": tenant.weight,
                        "adapters": sorted(tenant.adapters),
                    }
                    for tenant in context.tenants.tenants
                ],
                "tenants_file": asdict(context.tenants.state),
                "decision_store": context.decision_store(),
                "replicas": [asdict(item) for item in context.replicas.snapshots()],
                "placement": await context.controller_state(),
            }
        )

    return routes


async def check_may_scrape(context: AdminContext, request: Request) -> None:
    """Let an administrator or a tenant with ``metrics`` read metrics, or everybody by option.

    Raises:
        AuthenticationFailed: no key, or an unknown one.
        PermissionDenied: the key of another tenant.
    """
    if context.app_config.front.metrics_open:
        return
    tenant = await context.door.enter(request)
    if not (tenant.admin or tenant.metrics):
        raise PermissionDenied(
            "this needs an administrator's key, or that of a tenant with metrics: true"
        )


def _adapter(view: RegistryView, name: Name) -> dict[str, Any]:
    manifest = view.of_name(name).manifest
    return {
        "name": name.alias,
        "owner": name.owner,
        "digest": name.digest,
        "rank": manifest.rank,
        "bytes": manifest.nbytes,
        "description": manifest.description,
        "pinned": name.pinned,
        "grants": list(name.grants),
    }


def _residency(
    view: RegistryView, snapshot: ReplicaSnapshot, on_host: tuple[ResidentAdapter, ...]
) -> dict[str, Any]:
    """Return a snapshot with the tier of each version, and the names that point to it now.

    ``on_host`` is everything in host memory; what has a slot as well is also ``resident``.
    """
    body = asdict(snapshot)
    for held, resident in zip(body["resident"], snapshot.resident, strict=True):
        held["tier"] = TIERS.get(resident.state, "disk")
        held["names"] = [name.id for name in view.names_at(resident.digest)]
    body["on_host"] = [
        {
            **asdict(resident),
            "tier": TIERS[resident.state],
            "names": [name.id for name in view.names_at(resident.digest)],
        }
        for resident in on_host
    ]
    return body
