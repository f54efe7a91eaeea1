"""Reading a request's body: bounded in size, whatever its declared type."""

import json
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.requests import Request

from cluster.errors import PayloadTooLarge, RequestError
from cluster.repeated import repeated
from deployments.front.problem import invalid_body
from deployments.front.query import NoQuery, read_query
from deployments.front.wire import Body

B = TypeVar("B", bound=Body)


async def read_body(request: Request, kind: type[B], max_bytes: int) -> B:
    """The body as ``kind``; of a key that is there twice, the last counts.

    Raises:
        PayloadTooLarge: more than ``max_bytes``; reading stops there.
        RequestError: not JSON, or fields are wrong; the message names each.
    """
    return _parsed(await _received(request, max_bytes), kind)


async def read_exact_body(request: Request, kind: type[B], max_bytes: int) -> B:
    """As ``read_body``, where nothing may be said twice or in the query.

    Raises:
        RequestError: also for a key that is there twice, which costs another parse, and for any
            parameter in the query.
    """
    read_query(request, NoQuery)
    received = await _received(request, max_bytes)
    body = _parsed(received, kind)
    json.loads(received, object_pairs_hook=_refuse_repeated)
    return body


async def _received(request: Request, max_bytes: int) -> bytes:
    received = bytearray()
    async for part in request.stream():
        received += part
        if len(received) > max_bytes:
            raise PayloadTooLarge(f"the body is larger than {max_bytes} bytes")
    return bytes(received)


def _parsed(received: bytes, kind: type[B]) -> B:
    try:
        return kind.model_validate_json(received)
    except ValidationError as error:
        raise invalid_body(error) from error


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = repeated(name for name, _ in pairs)
        raise RequestError(f"{', '.join(twice)}: there more than once", param=twice[0])
    return found
