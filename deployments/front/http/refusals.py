"""Holds the answers that the server below the application gives to what it cannot pass on."""

from deployments.front.http.limits import (
    MAX_HEAD_BYTES,
    MAX_HEADER_LINES,
    MAX_PIPELINED,
    MAX_URL_BYTES,
)


class Refusal(Exception):
    """Describes an answer that the application does not give."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


MALFORMED = Refusal(400, "invalid_request", "the request is not valid HTTP")
HEAD_TOO_LARGE = Refusal(
    431,
    "headers_too_large",
    f"the headers are more than {MAX_HEAD_BYTES} bytes or {MAX_HEADER_LINES} lines",
)
URL_TOO_LONG = Refusal(414, "url_too_long", f"the URL is longer than {MAX_URL_BYTES} bytes")
TOO_MANY_PIPELINED = Refusal(
    400, "invalid_request", f"more than {MAX_PIPELINED} requests wait on this connection"
)
BAD_CHUNKS = Refusal(400, "invalid_request", "the body's chunks are too small or have extensions")
TOO_SLOW = Refusal(408, "request_timeout", "the request did not arrive in time")
TOO_MANY_CONNECTIONS = Refusal(
    503, "too_many_connections", "too many connections are open: use fewer, or try again later"
)
