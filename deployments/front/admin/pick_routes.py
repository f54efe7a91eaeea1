"""The route that explains which replica a request would be given."""

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from cluster.adapters.registry.records import name_id
from cluster.adapters.registry.registry_view import RegistryView
from cluster.domain.adapter import SHARED_OWNER
from cluster.domain.ids import AdapterDigest
from cluster.placement.picking.filters import PickRequest
from deployments.front.admin.admin_context import AdminContext
from deployments.front.http.json_answer import json_answer
from deployments.front.http.query import OwnerQuery, read_query
from deployments.front.requests.explain import pick_body

MAX_TOKENS = 1_000_000


class PickQuery(OwnerQuery):
    """``GET /admin/v1/pick``; ``tenant`` asks."""

    adapters: Annotated[str, Field(max_length=4096)] = ""
    """Names, separated by commas; empty: the base alone."""
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
        digests = _digests(context.adapters.view, query)
        wanted = PickRequest(
            digests,
            query.owner,
            prompt_tokens=query.prompt_tokens,
            expected_tokens=query.expected_tokens,
        )
        return json_answer(pick_body(context.replicas.explain(wanted)))

    return routes


def _digests(view: RegistryView, query: PickQuery) -> tuple[AdapterDigest, ...]:
    """Return the versions of the names, the tenant's own before shared ones.

    Raises:
        AdapterNotFound: a name is unknown.
    """
    digests = []
    for alias in filter(None, query.adapters.split(",")):
        own = name_id(query.owner, alias) in view.names
        digests.append(view.name(query.owner if own else SHARED_OWNER, alias).digest)
    return tuple(dict.fromkeys(digests))
