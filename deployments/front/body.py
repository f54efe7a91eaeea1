"""Reading a request's body: bounded in size, whatever its declared type."""

from typing import TypeVar

from pydantic import ValidationError
from starlette.requests import Request

from cluster.errors import PayloadTooLarge
from deployments.front.problem import invalid_body
from deployments.front.wire import Body

B = TypeVar("B", bound=Body)


async def read_body(request: Request, kind: type[B], max_bytes: int) -> B:
    """The body as ``kind``.

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
        return kind.model_validate_json(bytes(received))
    except ValidationError as error:
        raise invalid_body(error) from error
