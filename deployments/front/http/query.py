"""Reads a request's query, and ignores nothing that is written there."""

from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError
from starlette.requests import Request

from cluster.domain.adapter import SHARED_OWNER
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import RequestError
from cluster.repeated import repeated
from deployments.front.http.body_types import Body
from deployments.front.http.problem import invalid_body

Q = TypeVar("Q", bound=Body)
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
TenantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]

MAX_WAIT_S = 120.0
MAX_BLANKS = 1024
"""Bytes of a body that says nothing."""


class NoQuery(Body):
    """A route that takes no parameters."""


class OwnerQuery(Body):
    """Selects the owner of the name that is meant."""

    tenant: TenantName | None = None
    """Unset: a shared one."""

    @property
    def owner(self) -> TenantId:
        """Return the owner as the registry has it."""
        return SHARED_OWNER if self.tenant is None else TenantId(self.tenant)


class RemoveQuery(OwnerQuery):
    """``DELETE /admin/v1/adapters/{name}``."""

    expected: Digest | None = None
    """The version that the name must point to now."""
    force: bool = False
    """Also what is pinned, or what names point to."""
    wait_s: Annotated[float, Field(ge=0, le=MAX_WAIT_S)] = 30.0
    """Seconds to wait for memory to be free."""

    @property
    def expected_digest(self) -> AdapterDigest | None:
        """Return the digest to compare and set; None for any."""
        return None if self.expected is None else AdapterDigest(self.expected)


def read_query(request: Request, kind: type[Q], **given: Any) -> Q:
    """Return the query as ``kind``; ``given`` replaces what needed reading first.

    Raises:
        RequestError: a parameter is unknown, wrong, or there twice; the message names each.
    """
    pairs = request.query_params.multi_items()
    twice = repeated(name for name, _ in pairs)
    if twice:
        raise RequestError(
            f"{', '.join(twice)}: expected once in the query, found more often", param=twice[0]
        )
    try:
        return kind.model_validate({**dict(pairs), **given}, strict=False)
    except ValidationError as error:
        raise invalid_body(error) from error


async def refuse_body(request: Request) -> None:
    """Refuse a body where a route takes none, so that nothing in it is ignored.

    Raises:
        RequestError: there is one, or blanks without end.
    """
    received = 0
    async for part in request.stream():
        received += len(part)
        if part.strip() not in (b"", b"{}") or received > MAX_BLANKS:
            raise RequestError("this request takes no body; its parameters go into the query")
