"""The id of an HTTP request: the client's own where it is well formed, else a new one.

Serve puts an id into every request that has none, and answers with the id in ``x-request-id``.
"""

import re
import uuid

from starlette.requests import Request

HEADER = "x-request-id"
_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id_of(request: Request) -> str:
    """Used in the answer's ``id`` and in logs; never as a key of anything."""
    presented = request.headers.get(HEADER, "")
    return presented if _WELL_FORMED.fullmatch(presented) else uuid.uuid4().hex
