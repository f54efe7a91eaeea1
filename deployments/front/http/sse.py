"""Sends server-sent events, and notices that the client has gone."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

KEEP_ALIVE_S = 15.0
DONE = b"data: [DONE]\n\n"


def event(data: Mapping[str, object]) -> bytes:
    """Encode one event with a JSON object as its data."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def unless_disconnected(request: Request, work: Awaitable[T]) -> T:
    """Return the result of ``work``, which is cancelled if the client goes away first.

    The request's body must have been read.

    Raises:
        ClientDisconnect: the client no longer waits for an answer.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        watcher.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class EventStream(Response):
    """Sends events as they are made; closes the source when the client goes away.

    Args:
        events: encoded events; closed (``aclose``) at the end whatever happens.
        on_close: awaited after that, also where the client went away before the first event, when
            no code of ``events`` has run.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        on_close: Callable[[], Awaitable[None]],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self.headers.update(headers or {})
        del self.headers["content-length"]
        self._events = events
        self._on_close = on_close
        self._silent = True

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            await self._relay(receive, send)
        finally:
            await self._events.aclose()
            await self._on_close()

    async def _relay(self, receive: Receive, send: Send) -> None:
        """Send events until the source ends or the client goes, whichever comes first."""
        sender = asyncio.ensure_future(self._send_all(send))
        others = (
            asyncio.ensure_future(_gone(receive)),
            asyncio.ensure_future(self._keep_alive(send)),
        )
        try:
            await asyncio.wait({sender, *others}, return_when=asyncio.FIRST_COMPLETED)
            if sender.done():
                sender.result()
        finally:
            for task in (sender, *others):
                task.cancel()
            await asyncio.gather(sender, *others, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        async for data in self._events:
            self._silent = False
            await send(_body(data))
        await send(_body(b"", more=False))

    async def _keep_alive(self, send: Send) -> None:
        while True:
            self._silent = True
            await asyncio.sleep(KEEP_ALIVE_S)
            if self._silent:
                await send(_body(b": keep-alive\n\n"))


def _body(data: bytes, *, more: bool = True) -> dict[str, object]:
    return {"type": "http.response.body", "body": data, "more_body": more}
