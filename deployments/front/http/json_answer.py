"""Builds JSON answers with the fast encoder."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response


def json_answer(body: Any, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    """Return ``body`` as an ``application/json`` answer."""
    return Response(
        orjson.dumps(body),
        status_code=status,
        media_type="application/json",
        headers=dict(headers or {}),
    )
