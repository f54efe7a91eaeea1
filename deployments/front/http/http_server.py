"""Implements the front's own HTTP server: clients' bytes pass through no proxy.

Serve's direct ingress would do nearly the same, but it binds without address reuse (a restarted
front waits out the kernel's TIME_WAIT, a minute) and keeps a proxy process next to it. Here every
front of a machine listens on one port (SO_REUSEPORT), and the kernel shares connections out.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from cluster.config import FrontConfig
from cluster.errors import ConfigError
from deployments.front.http.connections import ConnectionBook
from deployments.front.http.http_guard import GuardedProtocol, GuardLimits

UNREAD_BODIES = 4
"""Of the largest size: how much of a body is still read after it was refused, so that its sender
sees the answer and can keep the connection."""
KEEP_ALIVE_S = 75
START_TIMEOUT_S = 10.0
CHECK_INTERVAL_S = 1.0


class _Server(uvicorn.Server):
    """Leaves signals to Ray."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves one ASGI application on the running event loop."""

    def __init__(self, app: ASGIApp, config: FrontConfig, *, drain_s: float) -> None:
        self._socket = _listen(config.host, config.port)
        self.connections = ConnectionBook(
            config.max_connections, config.max_connections_per_address
        )
        limits = GuardLimits(
            config.header_timeout_s,
            config.body_timeout_s,
            max_unread_bytes=UNREAD_BODIES * config.max_body_bytes,
        )
        self._server = _Server(
            uvicorn.Config(
                app,
                http=partial(GuardedProtocol, book=self.connections, limits=limits),  # type: ignore[arg-type] # made as a class is
                ws="none",
                proxy_headers=False,
                lifespan="off",
                access_log=False,
                log_config=None,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(drain_s),
            )
        )
        self._task: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Accept connections from now on."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        async with asyncio.timeout(START_TIMEOUT_S):
            # uvicorn offers a flag, no event.
            while not self._server.started and not self._task.done():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        if self._task.done():
            self._task.result()
        self._checking = asyncio.create_task(self._check_connections())

    @property
    def port(self) -> int:
        """Return the port that it listens on."""
        port: int = self._socket.getsockname()[1]
        return port

    @property
    def serving(self) -> bool:
        """Return whether connections are accepted."""
        return self._task is not None and not self._task.done()

    async def stop(self) -> None:
        """Accept no more connections, let running requests end, then close."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        if self._checking is not None:
            self._checking.cancel()

    async def _check_connections(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            self.connections.check(asyncio.get_running_loop().time())


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"front: cannot listen on {host}:{port}: {error.strerror}") from error
    return listener
