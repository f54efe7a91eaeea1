"""Reading a request's body: bounded in size, whatever its declared type."""

import json
from collections import Counter
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.requests import Request

from cluster.errors import PayloadTooLarge, RequestError
from deployments.front.problem import invalid_body
from deployments.front.wire import Body

B = TypeVar("B", bound=Body)


async def read_body(request: Request, kind: type[B], max_bytes: int, *, exact: bool = False) -> B:
    """The body as ``kind``.

    Args:
        exact: refuse a key that is there twice, which costs another parse; else the last counts.

    Raises:
        PayloadTooLarge: more than ``max_bytes``; reading stops there.
        RequestError: not JSON, or fields are wrong; the message names each.
    """
    received = bytearray()
    async for part in request.stream():
        received += part
        if len(received) > max_bytes:
            raise PayloadTooLarge(f"the body is larger than {max_bytes} bytes")
    try:
        body = kind.model_validate_json(bytes(received))
    except ValidationError as error:
        raise invalid_body(error) from error
    if exact:
        json.loads(received, object_pairs_hook=_refuse_repeated)
    return body


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = sorted(name for name, count in counts.items() if count > 1)
        raise RequestError(f"{', '.join(twice)}: there more than once", param=twice[0])
    return found
