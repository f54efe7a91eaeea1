"""Gives every answer its ``x-request-id``, and every request one line of this id in the log."""

import asyncio
import re
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.clock import Clock
from cluster.domain.request import Outcome
from deployments.front.http import problem
from deployments.front.telemetry.request_log import RequestRecord, begin_record

log = structlog.get_logger(__name__)

HEADER = "x-request-id"
PROBES = frozenset({"/health", "/ready", "/-/healthz"})
_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestIdMiddleware:
    """Chooses the id before the application runs, adds it to whatever is answered, and has the
    line written before the answer's last byte is sent.

    The id is the client's own if well formed, else a new one. Errors that nothing else has
    answered are answered here, since outside there is no id. Probes leave no line, unless they
    bring an id.
    """

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        presented = Headers(scope=scope).get(HEADER, "")
        own = _WELL_FORMED.fullmatch(presented) is not None
        record = RequestRecord(
            id=presented if own else uuid.uuid4().hex,
            method=scope["method"],
            path=scope["path"],
            started=self._clock.monotonic(),
        )
        scope.setdefault("state", {})["request_id"] = record.id
        begin_record(record)
        record.written = not own and record.path in PROBES

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                MutableHeaders(scope=message)[HEADER] = record.id
            elif not message.get("more_body", False):
                record.write(self._clock.monotonic())
            await send(message)

        with structlog.contextvars.bound_contextvars(request=record.id):
            try:
                await self._app(scope, receive, send_with_id)
            except (ClientDisconnect, asyncio.CancelledError) as error:
                record.fail(error, Outcome.CANCELLED)
                if isinstance(error, asyncio.CancelledError):
                    raise
            except Exception as error:
                record.fail(error, Outcome.FAILED_ENGINE)
                log.error("front.unexpected_error", exc_info=error)
                if record.status is None:
                    await problem.unexpected(record.id)(scope, receive, send_with_id)
            finally:
                record.write(self._clock.monotonic())


def request_id_of(request: Request) -> str:
    """Return the request's id, for the answer's ``id`` and for logs; never a key of anything."""
    value: str = request.state.request_id
    return value
