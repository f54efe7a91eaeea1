"""A whole front in one process, asked over HTTP, in front of scripted replicas.

All its parts are the real ones; the quota, the registry and the decision store are in memory. How
they are put together is ``front_wiring``'s to know.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import structlog
import yaml

from cluster.tenancy.keys import hash_key
from tests.support.byte_base import FIRST_BYTE, SPECIAL
from tests.support.front_wiring import STARTED_AT, SharedParts, build_app, routes_in, serve
from tests.support.manual_clock import ManualClock
from tests.support.scripted_cluster import ScriptedCluster
from tests.support.scripted_replica import Script, ScriptedReplica, Speech

T = TypeVar("T")
TENANTS: tuple[dict[str, Any], ...] = (
    {"id": "acme", "adapters": ["*"]},
    {"id": "globex", "adapters": ["sql"]},
    {"id": "one", "adapters": ["*"], "max_concurrent": 1},
    {"id": "rate", "adapters": ["*"], "requests_per_minute": 3},
    {"id": "tokens", "adapters": ["*"], "tokens_per_minute": 100},
    {"id": "scraper", "metrics": True},
    {"id": "root", "adapters": ["*"], "admin": True},
)
"""The key of each tenant is its id."""
OpenFront = Callable[..., AbstractAsyncContextManager["HttpFront"]]


class HttpFront:
    """Asks one front over HTTP.

    Args:
        cluster: the replicas and whatever else it asks.
        shared: what fronts may share.
        folder: of its own files.
    """

    def __init__(self, cluster: ScriptedCluster, shared: SharedParts, folder: Path) -> None:
        self.cluster = cluster
        self.clock = cluster.clock
        self.lines: list[dict[str, Any]] = []  # of the log
        self.tenants_file = folder / "tenants.yaml"
        self.sources = shared.folder / "sources"  # where an administrator may name folders
        self.store = folder / "store"  # of what was added
        self.app: Any = None
        self._client: httpx2.AsyncClient

    @property
    def script(self) -> Script:
        """Return what the replicas say, and what they have heard."""
        return self.cluster.script

    @property
    def replicas(self) -> list[ScriptedReplica]:
        """Return every one that was ever there."""
        return self.cluster.replicas

    def says(self, *speeches: str | Speech) -> None:
        """Let the next sequences be answered so, in this order."""
        self.script.taken = 0
        self.script.speeches = [Speech(one) if isinstance(one, str) else one for one in speeches]

    async def ask(
        self, method: str, path: str, key: str | None = "acme", **fields: Any
    ) -> httpx2.Response:
        """Send one request and return its whole answer; ``key`` is a tenant's id."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        headers |= fields.pop("headers", {})
        answer = await self._client.request(method, path, headers=headers, **fields)
        await asyncio.sleep(0)  # over a network, what follows an answer is done by now
        return answer

    async def get(self, path: str, key: str | None = "acme", **fields: Any) -> httpx2.Response:
        """Ask; see ``ask``."""
        return await self.ask("GET", path, key, **fields)

    async def post(
        self, path: str, body: object = None, key: str | None = "acme", **fields: Any
    ) -> httpx2.Response:
        """Ask; ``body`` becomes JSON, bytes are sent as they are."""
        if isinstance(body, bytes):
            fields["content"] = body
        elif body is not None:
            fields["json"] = body
        return await self.ask("POST", path, key, **fields)

    async def delete(self, path: str, key: str | None = "acme", **fields: Any) -> httpx2.Response:
        """Ask; see ``ask``."""
        return await self.ask("DELETE", path, key, **fields)

    async def abandoned(
        self, path: str, body: object, leave: asyncio.Event, *, deaf: bool = False
    ) -> int | None:
        """Return the status of an answer whose client hangs up when ``leave`` is set.

        Where ``body`` is None the client is gone before the body has come; a ``deaf`` one is gone
        when the answer begins.
        """
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"authorization", b"Bearer acme")],
            "client": ("127.0.0.1", 1),
            "server": ("front", 80),
            "scheme": "http",
            "root_path": "",
        }
        sent = {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        parts = iter([{"type": "http.disconnect"} if body is None else sent])
        status: list[int] = []

        async def receive() -> dict[str, Any]:
            part = next(parts, None)
            if part is None:
                await leave.wait()
                return {"type": "http.disconnect"}
            return part

        async def send(message: Mapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status.append(message["status"])
                if deaf:
                    raise OSError("the client has gone")

        await self.app(scope, receive, send)  # type: ignore[arg-type]
        return status[0] if status else None

    @asynccontextmanager
    async def served(self) -> AsyncIterator[httpx2.AsyncClient]:
        """Serve the same front on a real server and give a client of it."""
        headers = {"authorization": "Bearer acme"}
        async with (
            serve(self.app) as url,
            httpx2.AsyncClient(base_url=url, headers=headers, timeout=20, verify=False) as client,
        ):
            yield client

    @property
    def routes(self) -> set[tuple[str, str]]:
        """Return method and path of each route, as ``("GET", "/v1/models/{name}")``."""
        return {
            (method, route.path.replace(":path}", "}"))
            for route in routes_in(self.app.routes)
            for method in route.methods
        }

    def logged(self, event: str = "request") -> list[dict[str, Any]]:
        """Return the log's lines of an event so far."""
        return [line for line in self.lines if line["event"] == event]

    def token(self, letter: str) -> int:
        """Return the token of an ASCII letter."""
        return FIRST_BYTE + ord(letter)

    def text_of(self, token_ids: Sequence[int]) -> str:
        """Return what tokens say, special ones included."""
        parts = [
            SPECIAL[token].encode() if token < FIRST_BYTE else bytes([token - FIRST_BYTE])
            for token in token_ids
        ]
        return b"".join(parts).decode()

    @asynccontextmanager
    async def beside(self, work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
        """Let ``work`` run while the block does; it ends before the block is left."""
        async with asyncio.TaskGroup() as group:
            group.create_task(work)
            yield

    async def pause(self) -> None:
        """Let other tasks and threads run for a moment."""
        await asyncio.sleep(0.002)

    async def in_time(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of what ends only after a while, which passes at once."""
        task = asyncio.create_task(work)
        while not task.done():
            self.clock.advance(5)
            await self.pause()
        return task.result()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that another task brings about."""
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - many parts change what is waited for
                await asyncio.sleep(0.001)

    async def figures(self) -> dict[str, float]:
        """Read every sample of ``/metrics`` by its name and labels."""
        text = (await self.get("/metrics", "root")).text
        rows = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in rows}


@asynccontextmanager
async def http_front(
    shared: SharedParts, folder: Path, *, replicas: int = 1, **config: Any
) -> AsyncIterator[HttpFront]:
    """Build a front over so many replicas; nothing may be left running at its end.

    Args:
        shared: what fronts may share.
        folder: an empty one for its files.
        replicas: there at the start.
        config: fields of ``AppConfig``.
    """
    async with AsyncExitStack() as stack:
        lines = stack.enter_context(
            structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars])
        )
        cluster = ScriptedCluster(ManualClock(STARTED_AT))
        stack.push_async_callback(cluster.close)
        for _ in range(replicas):
            await cluster.add_replica()
        front = HttpFront(cluster, shared, folder)
        front.lines = lines  # type: ignore[assignment] # mutable mappings, of which each is a dict
        write_tenants(front.tenants_file, TENANTS)
        front.app = await build_app(cluster, shared, front.tenants_file, front.store, config, stack)
        transport = httpx2.ASGITransport(front.app)
        front._client = await stack.enter_async_context(
            httpx2.AsyncClient(transport=transport, base_url="http://front")
        )
        while replicas and (await front.get("/ready", None)).status_code != 200:
            await front.pause()
        front.lines.clear()
        yield front
        assert (await front.figures())["braid_requests_in_flight"] == 0


def write_tenants(path: Path, tenants: tuple[dict[str, Any], ...]) -> None:
    """Write a tenants file in which each one's key is its id."""
    entries = [{**tenant, "keys": [hash_key(tenant["id"])]} for tenant in tenants]
    path.write_text(yaml.safe_dump({"tenants": entries}))
