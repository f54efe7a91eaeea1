"""A front's real HTTP server over a small cluster in one process, and connections to it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from cluster.clock import SystemClock
from cluster.config import AppConfig, FrontConfig
from cluster.tenancy.keys import hash_key
from cluster.tenancy.tenants import TenantDirectory, TenantEntry
from deployments.front.entry.door import Door
from deployments.front.front_context import FrontContext
from deployments.front.http.http_server import HttpServer
from deployments.front.http_app import build_http_app
from tests.support.small_cluster import SmallCluster, small_cluster

TENANTS: tuple[dict[str, Any], ...] = (
    {"id": "acme", "keys": (hash_key("acme"),), "adapters": ("*",)},
    {"id": "one", "keys": (hash_key("one"),), "adapters": ("*",), "max_concurrent": 1},
    {"id": "rate", "keys": (hash_key("rate"),), "adapters": ("*",), "requests_per_minute": 3},
    {"id": "root", "keys": (hash_key("root"),), "adapters": ("*",), "admin": True},
)


@dataclass(frozen=True, slots=True)
class Answer:
    """Holds the status, headers and body that came back."""

    status: int  # 0: the connection was closed without an answer
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error that the body tells of."""
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


class FrontServer:
    """One server; ``cluster`` is what is behind it."""

    def __init__(self, cluster: SmallCluster, config: FrontConfig) -> None:
        self.cluster = cluster
        service = cluster.service
        tenants = TenantDirectory("tenants", [TenantEntry(**entry) for entry in TENANTS])
        nothing = SimpleNamespace(registry=None, routers=None, entries=lambda _: {})
        door = Door(
            authenticate=lambda request: tenants.authenticate(request.headers.get("authorization")),
            admission=service._admission,
            work=cluster.work,
            config=config,
            clock=SystemClock(),
        )
        admin = SimpleNamespace(
            door=door,
            app_config=AppConfig(front=config),
            adapters=nothing,
            adapter_admin=nothing,
            router_admin=nothing,
            policies=nothing,
            replicas=cluster,
            tenants=tenants,
            controller_state=_placement,
        )
        context = SimpleNamespace(
            version="test",
            started_at=0,
            router_names=("words",),
            config=config,
            service=service,
            names=service.names,
            clock=SystemClock(),
            replicas=cluster,
            metrics=cluster.metrics,
            directory=nothing,
            door=door,
            admin=admin,
        )
        self.http = HttpServer(build_http_app(cast("FrontContext", context)), config, drain_s=1)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection of one's own."""
        return await asyncio.open_connection("127.0.0.1", self.http.port, limit=1 << 26)

    async def raw(self, data: bytes, timeout_s: float = 20) -> Answer:
        """Return what is answered to ``data``, which may not be a request at all."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            async with asyncio.timeout(timeout_s):
                return await read_answer(reader)
        finally:
            writer.close()

    async def post(
        self, path: str, body: object, key: str = "acme", method: str = "POST"
    ) -> Answer:
        """Return the answer to one request; ``body`` is bytes, text or what becomes JSON."""
        if not isinstance(body, bytes | str):
            body = json.dumps(body)
        return await self.raw(request(path, body, key, method))


async def _placement() -> dict[str, Any]:
    return {}


def request(path: str, body: bytes | str, key: str, method: str = "POST") -> bytes:
    """Return the bytes of a request."""
    data = body.encode() if isinstance(body, str) else body
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read one answer; of a connection that is closed or cut without one, the status is 0."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return Answer(0, {}, b"")
    lines = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:] if line)}
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = await reader.read()
    return Answer(int(lines[0].split()[1]), headers, body)


@asynccontextmanager
async def front_server(folder: Path, **config: object) -> AsyncIterator[FrontServer]:
    """Run a front's server; ``folder`` is of `make_base`, ``config`` are fields of the front's."""
    async with small_cluster(folder) as cluster:
        server = FrontServer(cluster, FrontConfig.model_validate({"port": free_port(), **config}))
        await server.http.start()
        try:
            yield server
        finally:
            await server.http.stop()


def free_port() -> int:
    """Return a port that no one listens on at this moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
