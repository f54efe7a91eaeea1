"""Reads how long a client waits for the first replica, where none runs."""

import math

from starlette.datastructures import Headers

from cluster.errors import RequestError

MAX_WAIT_HEADER = "x-braid-max-wait"


def max_wait_of(headers: Headers) -> float:
    """Return the client's bound in seconds; infinity where it gives none.

    Raises:
        RequestError: the header is not a number of seconds.
    """
    given = headers.get(MAX_WAIT_HEADER)
    if given is None:
        return math.inf
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise RequestError(
            f"{MAX_WAIT_HEADER}: expected seconds, 0 or more, not {given[:40]!r}; "
            "leave the header out to wait as long as the server holds requests"
        )
    return seconds
