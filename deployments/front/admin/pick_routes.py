"""The route that explains which replica a request would be given."""

import difflib
from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from cluster.adapters.registry.records import Name
from cluster.adapters.registry.registry_view import RegistryView
from cluster.domain.adapter import SHARED_OWNER
from cluster.domain.ids import AdapterDigest
from cluster.errors import AdapterNotFound, RequestError
from cluster.placement.picking.filters import PickRequest
from cluster.tenancy.tenants import Tenant
from deployments.front.admin.admin_context import AdminContext
from deployments.front.http.json_answer import json_answer
from deployments.front.http.query import OwnerQuery, read_query
from deployments.front.requests.explain import pick_body

MAX_TOKENS = 1_000_000
MAX_COMPARED = 64
"""Characters of an unknown name that are compared with those that are known."""


class PickQuery(OwnerQuery):
    """``GET /admin/v1/pick``; ``tenant`` asks."""

    adapters: Annotated[str, Field(max_length=4096)] = ""
    """Names, separated by commas; without any: the base alone."""
    prompt_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 0
    expected_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 64
    """Tokens that it will generate."""


def build_pick_routes(context: AdminContext) -> APIRouter:
    """Build ``GET /admin/v1/pick``."""
    routes = APIRouter(prefix="/admin/v1")

    @routes.get("/pick")
    async def pick(request: Request) -> Response:
        """Show which replica a request would be given now, and what each would cost."""
        await context.door.enter_admin(request)
        query = read_query(request, PickQuery)
        tenant = _tenant(context.tenants.tenants, query)
        wanted = PickRequest(
            _digests(context.adapters.view, tenant, query.adapters),
            query.owner,
            prompt_tokens=query.prompt_tokens,
            expected_tokens=query.expected_tokens,
        )
        return json_answer(pick_body(context.replicas.explain(wanted)))

    return routes


def _tenant(tenants: Iterable[Tenant], query: PickQuery) -> Tenant | None:
    """Return the tenant that asks, or None if the query names none.

    Raises:
        RequestError: there is no such tenant.
    """
    if query.tenant is None:
        return None
    known = {str(tenant.id): tenant for tenant in tenants}
    if query.tenant not in known:
        near = _nearest(query.tenant, known)
        raise RequestError(f"tenant: there is no tenant {query.tenant!r}{near}", param="tenant")
    return known[query.tenant]


def _digests(view: RegistryView, tenant: Tenant | None, adapters: str) -> tuple[AdapterDigest, ...]:
    """Return the versions of the names, the tenant's own before shared ones.

    Raises:
        RequestError: a name is empty.
        AdapterNotFound: there is no such name, or the tenant may not use it.
    """
    known: dict[str, Name]
    if tenant is None:
        known = {n.alias: n for n in view.names.values() if n.owner == SHARED_OWNER}
    else:
        known = view.visible(tenant.id, tenant)
    digests: dict[AdapterDigest, None] = {}
    for alias in map(str.strip, adapters.split(",") if adapters else ()):
        if not alias:
            raise RequestError(
                "adapters: a name is empty; separate names by single commas", param="adapters"
            )
        if alias not in known:
            whose = "no adapter is shared as" if tenant is None else f"{tenant.id} has no adapter"
            near = _nearest(alias, known)
            raise AdapterNotFound(f"adapters: {whose} {alias!r}{near}", param="adapters")
        digests[known[alias].digest] = None
    return tuple(digests)


def _nearest(word: str, known: Iterable[str]) -> str:
    """Return the question after the known name that is nearest, if one is near."""
    near = difflib.get_close_matches(word[:MAX_COMPARED], sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
