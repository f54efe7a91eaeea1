"""``/admin/v1/policy``: what is in force, its versions, and another one."""

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import AfterValidator, Field

from cluster.errors import PolicyNotFound
from cluster.placement.policy.policy_text import MOST_BYTES
from cluster.placement.policy.policy_versions import LONGEST_OVERRIDE_S, SHORTEST_OVERRIDE_S
from deployments.front.admin.admin_context import AdminContext
from deployments.front.http.body_types import WHOLE, Body
from deployments.front.http.json_answer import json_answer
from deployments.front.http.query import NoQuery, read_query

MOST_NUMBER = 2**53
MESSAGE_CHARACTERS = 1000


def _reason(text: str) -> str:
    if "\0" in text or not any(one.isprintable() and not one.isspace() for one in text):
        raise ValueError("expected a reason in words, without the character NUL")
    return text


class PolicyBody(Body):
    """``PUT /admin/v1/policy``."""

    text: Annotated[str, Field(max_length=MOST_BYTES)]
    """The whole document, in YAML."""
    message: Annotated[
        str, Field(min_length=1, max_length=MESSAGE_CHARACTERS), AfterValidator(_reason)
    ]
    """The reason, for those who read the history."""
    expected: Annotated[int, Field(ge=0, le=MOST_NUMBER), WHOLE] | None = None
    """The version that must be in force now; null for any."""
    override_s: Annotated[float, Field(ge=SHORTEST_OVERRIDE_S, le=LONGEST_OVERRIDE_S)] | None = None
    """Seconds for which it replaces the policy of a file, which returns by itself."""


def build_policy_routes(context: AdminContext) -> APIRouter:
    """Build the routes; all of them need an administrator's key."""
    routes = APIRouter(prefix="/admin/v1/policy")
    policies = context.policies

    @routes.get("")
    async def show(request: Request) -> Response:
        """Show the policy in force, and who goes by it."""
        await context.door.enter_admin(request)
        read_query(request, NoQuery)
        return json_answer(await policies.show())

    @routes.put("")
    async def apply(request: Request) -> Response:
        """Check a policy, keep it as the next version, and put it in force."""
        tenant = await context.door.enter_admin(request)
        body = await context.door.read_exact(request, tenant, PolicyBody)
        applied = await policies.apply(
            body.text,
            body.message,
            tenant.id,
            expected=body.expected,
            override_s=body.override_s,
        )
        return json_answer(applied)

    @routes.get("/history")
    async def history(request: Request) -> Response:
        """List the kept versions, newest first."""
        await context.door.enter_admin(request)
        read_query(request, NoQuery)
        return json_answer({"object": "list", "data": await policies.history()})

    @routes.get("/versions/{number}")
    async def version(request: Request, number: str) -> Response:
        """Show one version with its text."""
        await context.door.enter_admin(request)
        read_query(request, NoQuery)
        if not (number.isascii() and number.isdecimal() and len(number) < 16):
            raise PolicyNotFound(f"there is no version {number[:32]!r} of the policy")
        return json_answer(await policies.version(int(number)))

    return routes
