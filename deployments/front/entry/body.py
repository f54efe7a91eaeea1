"""Reads a request's body, bounded in size, in content and in time, into any model.

A body above 64 KiB is read when its tenant has a place for it, counted before it is parsed, and
parsed in a thread.
"""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from cluster.domain.ids import TenantId
from cluster.errors import PayloadTooLarge, RequestError
from cluster.repeated import repeated
from deployments.front.entry.body_scan import check_counts, values_at_most
from deployments.front.entry.heavy import HeavyWork
from deployments.front.entry.tenant_gate import TenantGate
from deployments.front.http.limits import SMALL_BODY_BYTES
from deployments.front.http.problem import invalid_body
from deployments.front.http.query import NoQuery, read_query

B = TypeVar("B", bound=BaseModel)

MANY_VALUES = 2000
"""In a small body; more are parsed in a thread like a large one."""
LARGE_REST_S = 0.02
"""A tenant's pause after a large body, which has to be received on the event loop."""
LARGE_BODIES = 32
LARGE_BODIES_PER_TENANT = 4
"""Held in memory at once, from their first byte beyond the small ones to their parsed form."""
MAX_WAITING = 64
WAIT_S = 30.0


class BodyReader:
    """Reads the bodies of one front's requests.

    Args:
        max_bytes: of one body.
        work: where large ones are parsed.
    """

    def __init__(self, max_bytes: int, work: HeavyWork) -> None:
        self._max_bytes = max_bytes
        self._work = work
        self._large = TenantGate(LARGE_BODIES, LARGE_BODIES_PER_TENANT, MAX_WAITING, WAIT_S)

    async def read(self, request: Request, tenant: TenantId, kind: type[B]) -> B:
        """Return the body as ``kind``; of a duplicate key, the last counts.

        Raises:
            PayloadTooLarge: more bytes or values than allowed; reading stops there.
            RequestError: not JSON, or fields are wrong; the message names each.
        """
        return await self._read(request, tenant, lambda received: _parsed(received, kind))

    async def read_exact(self, request: Request, tenant: TenantId, kind: type[B]) -> B:
        """Return the body as ``read`` does, but refuse duplicate keys and a query.

        Raises:
            RequestError: also for a key that is there twice, which costs another parse, and for
                any parameter in the query.
        """
        read_query(request, NoQuery)
        return await self._read(request, tenant, lambda received: _parsed_exactly(received, kind))

    async def _read(
        self, request: Request, tenant: TenantId, parse: Callable[[bytes | bytearray], B]
    ) -> B:
        self._check_declared(request)
        _check_encoding(request)
        parts = request.stream()
        received = bytearray()
        if await self._receive(parts, received, SMALL_BODY_BYTES):
            if values_at_most(received, MANY_VALUES):
                return parse(received)
            return await self._work.run(tenant, lambda: parse(received))
        async with self._large.place(tenant):
            if not await self._receive(parts, received, self._max_bytes):
                raise self._too_large()
            return await self._work.run(
                tenant, lambda: _counted(received, parse), rest_s=LARGE_REST_S
            )

    async def _receive(self, parts: AsyncIterator[bytes], received: bytearray, most: int) -> bool:
        """Add to ``received``; false as soon as it is more than ``most`` bytes."""
        async for part in parts:
            received += part
            if len(received) > self._max_bytes:
                raise self._too_large()
            if len(received) > most:
                return False
        return True

    def _check_declared(self, request: Request) -> None:
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            raise self._too_large()

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"the body is larger than {self._max_bytes} bytes")


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "")
    if encoding.strip().lower() not in ("", "identity"):
        raise RequestError(
            f"content-encoding: packed bodies are not read, and this one is {encoding!r}; "
            "send it as it is, without the header"
        )


def _counted(received: bytearray, parse: Callable[[bytes | bytearray], B]) -> B:
    check_counts(received)
    return parse(received)


def _parsed(received: bytes | bytearray, kind: type[B]) -> B:
    try:
        return kind.model_validate_json(received)
    except ValidationError as error:
        raise invalid_body(error) from None  # it refers to the whole body


def _parsed_exactly(received: bytes | bytearray, kind: type[B]) -> B:
    body = _parsed(received, kind)
    json.loads(received, object_pairs_hook=_refuse_repeated)
    return body


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = repeated(name for name, _ in pairs)
        raise RequestError(f"{', '.join(twice)}: there more than once", param=twice[0])
    return found
