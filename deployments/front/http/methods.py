"""Answers methods other than those of the routes: HEAD, OPTIONS, and what a path allows."""

from collections.abc import Iterable

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.front.http.problem import CODE_BY_STATUS, error_body

PREFLIGHT_AGE_S = 600
METHODS = ("GET", "POST", "PUT", "DELETE")

EXPOSED_HEADERS = (
    "retry-after",
    "x-braid-adapters",
    "x-braid-decision",
    "x-braid-decision-source",
    "x-braid-decision-store",
    "x-braid-replica",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-request-id",
    "x-should-retry",
)
"""Headers of answers that scripts of other origins may read."""


class HeadMiddleware:
    """Answers HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, send_head)


def install_methods(app: FastAPI, origins: tuple[str, ...]) -> None:
    """Let ``app`` answer HEAD, tell what a path allows, and let pages of ``origins`` call."""

    @app.exception_handler(405)
    async def not_allowed(request: Request, _: HTTPException) -> JSONResponse:
        allowed = allowed_methods(app.routes, request.scope)
        return JSONResponse(
            error_body(
                405,
                f"{request.url.path} takes {' and '.join(allowed)}, not {request.method}",
                CODE_BY_STATUS[405],
            ),
            status_code=405,
            headers={"allow": ", ".join(allowed)},
        )

    app.add_middleware(HeadMiddleware)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=[*METHODS, "HEAD"],
            allow_headers=["*"],
            expose_headers=list(EXPOSED_HEADERS),
            max_age=PREFLIGHT_AGE_S,
        )


def allowed_methods(routes: Iterable[BaseRoute], scope: Scope) -> list[str]:
    """Return the methods of all routes of a path, with HEAD if GET is among them."""
    found = [
        method
        for method in METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    return ["GET", "HEAD", *found[1:]] if "GET" in found else found
