"""``/admin/v1/routers``: adding, replacing and removing routers while the cluster serves."""

from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from cluster.errors import RequestError, RouterNotFound
from deployments.front.admin.adapter_sources import is_archive
from deployments.front.admin.admin_context import AdminContext
from deployments.front.admin.router_admin import RouterChange, describe
from deployments.front.http.body_types import Body, NameText, NameToAdd
from deployments.front.http.json_answer import json_answer
from deployments.front.http.query import NoQuery, read_query, refuse_body
from deployments.router_build import router_configs


class RouterBody(Body):
    """``POST /admin/v1/routers`` for a kind without an artifact; with one, the query."""

    name: NameToAdd
    kind: NameText | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    replace: bool = False

    def change(self) -> RouterChange:
        """Return the change that it asks for."""
        return RouterChange(self.name, self.kind, self.options, self.replace)


def build_router_routes(context: AdminContext) -> APIRouter:
    """Build the routes; all of them need an administrator's key."""
    routes = APIRouter(prefix="/admin/v1/routers")
    admin = context.router_admin

    def cards() -> list[dict[str, Any]]:
        view = context.adapters.view
        present = admin.routers.present
        found = []
        for router in router_configs(context.app_config, view):
            problem = present.broken.get(router.name, "")
            added = view.routers.get(router.name)
            built = present.routers.get(router.name)
            card: dict[str, Any] = {
                "object": "router",
                "name": router.name,
                "kind": router.kind,
                "state": "serving" if built is not None else "broken",
                "source": "config" if added is None else "added",
                **describe(router, problem),
                "options": router.options,
            }
            if built is not None:
                card["version"] = built.version
            if problem:
                card["problem"] = problem
            if added is not None:
                card |= {"changed_at": added.changed_at, "by": added.by}
            found.append(card)
        return found

    def card(name: str) -> dict[str, Any]:
        found = next((card for card in cards() if card["name"] == name), None)
        if found is None:
            raise RouterNotFound(f"there is no router {name!r}", param="name")
        return found

    @routes.post("")
    async def add(request: Request) -> Response:
        """Add a router, or replace one: a .tar of its artifact, or JSON where it has none."""
        tenant = await context.door.enter_admin(request)
        if is_archive(request):
            change = _parameters(request).change()
            declared = request.headers.get("content-length", "")
            length = int(declared) if declared.isdecimal() else None
            await admin.upload(request.stream(), length, change, tenant.id)
        else:
            body = await context.door.read_exact(request, tenant, RouterBody)
            change = body.change()
            await admin.add(change, tenant.id)
        return json_answer(card(change.name), status=201)

    @routes.get("")
    async def list_routers(request: Request) -> Response:
        """List all routers; the first one answers ``auto``."""
        await context.door.enter_admin(request)
        read_query(request, NoQuery)
        await admin.routers.sync()
        return json_answer({"object": "list", "data": cards()})

    @routes.get("/{name}")
    async def show(request: Request, name: str) -> Response:
        """Show one router."""
        await context.door.enter_admin(request)
        read_query(request, NoQuery)
        await admin.routers.sync()
        return json_answer(card(name))

    @routes.delete("/{name}")
    async def remove(request: Request, name: str) -> Response:
        """Remove one that was added; a configured one of its name answers again."""
        tenant = await context.door.enter_admin(request)
        read_query(request, NoQuery)
        await refuse_body(request)
        await admin.remove(name, tenant.id)
        return json_answer({"object": "router.deleted", "name": name, "deleted": True})

    return routes


def _parameters(request: Request) -> RouterBody:
    """Read the query of an upload; ``options`` are a JSON object.

    Raises:
        RequestError: fields are wrong; the message names each.
    """
    options = request.query_params.get("options")
    if options is None:
        return read_query(request, RouterBody)
    try:
        return read_query(request, RouterBody, options=orjson.loads(options))
    except orjson.JSONDecodeError as error:
        raise RequestError(f"options: not JSON: {error}", param="options") from error
