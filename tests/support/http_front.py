"""A whole front in one process, asked over HTTP, in front of scripted replicas.

All parts are the real ones; the quota, the registry and the decision store are in memory. This is
the only place that knows how a front is put together: tests speak HTTP.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import structlog
import yaml
from fastapi import FastAPI
from fastapi.routing import APIRoute

from cluster.adapters.format.chat_template import digest_of
from cluster.adapters.registry.memory_store import MemoryRegistryStore
from cluster.adapters.registry.records import Answer
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.base_model.source import ModelLocation
from cluster.clock import ManualClock
from cluster.config import AppConfig
from cluster.domain.ids import AdapterDigest, RequestId
from cluster.domain.replica import ReplicaSnapshot
from cluster.errors import ReplicaLost
from cluster.placement.picking.picker import Picker
from cluster.placement.policy import ClusterPolicy
from cluster.tenancy.followed_tenants import FollowedTenants
from cluster.tenancy.keys import hash_key
from cluster.tenancy.metering import Meter
from cluster.tenancy.quota import MemoryQuota
from deployments.directory import TenantAdapters
from deployments.front.admin.adapter_admin import AdapterAdmin
from deployments.front.admin.front_routers import FrontRouters
from deployments.front.admin.router_admin import RouterAdmin
from deployments.front.entry.door import Door
from deployments.front.entry.heavy import HeavyWork
from deployments.front.entry.live_tenants import LiveTenants
from deployments.front.front_context import FrontContext
from deployments.front.http.http_server import HttpServer
from deployments.front.http.key_headers import authorization_of
from deployments.front.openai.http_app import build_http_app
from deployments.front.openai.structured import GrammarChecker
from deployments.front.requests.admission import Admission
from deployments.front.requests.names import ModelNames
from deployments.front.requests.replicas import ReplicaSet
from deployments.front.requests.request_service import RequestService
from deployments.front.telemetry.collectors import (
    MeterCollector,
    ReplicaCollector,
    RoutingCollector,
)
from deployments.front.telemetry.metrics import FrontMetrics
from deployments.front.text.adapter_templates import AdapterTemplates
from deployments.front.text.grammar_trial import GrammarTrial
from deployments.front.text.prompts import PromptReader
from deployments.front.text.text_stream import TextCodec
from deployments.live_adapters import LiveAdapters
from deployments.live_routers import BuiltRouters
from deployments.replica_calls import integrity_answer
from deployments.wiring import base_names, scan_adapters
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.memory import MemoryDecisionStore
from router_service.service import RoutingService
from tests.support.byte_base import END_OF_TEXT, FIRST_BYTE, MODEL_ID, SHAPES, SPECIAL
from tests.support.front_server import free_port
from tests.support.scripted_replica import Script, ScriptedReplica, Speech
from tests.support.word_routers import SentenceWords, WordRouter

T = TypeVar("T")
SIGNING_KEY = b"0123456789abcdef"
STARTED_AT = 1_900_000_000
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


class SharedParts:
    """What is slow to make and may serve any number of fronts, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.codec = TextCodec(folder / "base")
        self.trial = GrammarTrial(folder / "base")

    def close(self) -> None:
        """End the helper process of the grammars."""
        self.trial.close()


class HttpFront:
    """A front and how it is asked."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.script = Script()
        self.replicas: list[ScriptedReplica] = []
        self.lines: list[dict[str, Any]] = []  # of the log
        self.placement: dict[str, Any] = {"plan": "as scripted"}
        self.app = FastAPI()
        self.tenants_file = Path()
        self.answering = asyncio.Event()  # cleared: replicas say nothing of what is added
        self.answering.set()
        self.sources = Path()  # where an administrator may name folders
        self.store = Path()  # of what was added
        self._client: httpx2.AsyncClient
        self._names = (f"r{number}" for number in itertools.count())

    def says(self, *speeches: str | Speech) -> None:
        """Let the next sequences be answered so, in this order."""
        self.script.taken = 0
        self.script.speeches = [Speech(one) if isinstance(one, str) else one for one in speeches]

    async def add_replica(self) -> ScriptedReplica:
        """Start another replica."""
        replica = ScriptedReplica(
            next(self._names), self.script, self.clock, END_OF_TEXT, FIRST_BYTE
        )
        await replica.start()
        self.replicas.append(replica)
        return replica

    async def ask(
        self, method: str, path: str, key: str | None = "acme", **fields: Any
    ) -> httpx2.Response:
        """The whole answer to one request; ``key`` is a tenant's id."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        headers |= fields.pop("headers", {})
        answer = await self._client.request(method, path, headers=headers, **fields)
        await asyncio.sleep(0)  # over a network, what follows an answer is done by now
        return answer

    async def get(self, path: str, key: str | None = "acme", **fields: Any) -> httpx2.Response:
        """As ``ask``."""
        return await self.ask("GET", path, key, **fields)

    async def post(
        self, path: str, body: object = None, key: str | None = "acme", **fields: Any
    ) -> httpx2.Response:
        """As ``ask``; ``body`` becomes JSON, bytes are sent as they are."""
        if isinstance(body, bytes):
            fields["content"] = body
        elif body is not None:
            fields["json"] = body
        return await self.ask("POST", path, key, **fields)

    async def delete(self, path: str, key: str | None = "acme", **fields: Any) -> httpx2.Response:
        """As ``ask``."""
        return await self.ask("DELETE", path, key, **fields)

    async def abandoned(self, path: str, body: object, leave: asyncio.Event) -> int | None:
        """The status that a client would have had who hangs up when ``leave`` is set.

        Where ``body`` is None the client is gone before the body has come.
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

        await self.app(scope, receive, send)  # type: ignore[arg-type]
        return status[0] if status else None

    @asynccontextmanager
    async def served(self, **config: object) -> AsyncIterator[httpx2.AsyncClient]:
        """A client of the same front on a real server; ``config`` are fields of the front's."""
        known = AppConfig.model_validate({"front": {"port": free_port(), **config}}).front
        server = HttpServer(self.app, known, drain_s=1)
        await server.start()
        headers = {"authorization": "Bearer acme"}
        url = f"http://127.0.0.1:{known.port}"
        try:
            async with httpx2.AsyncClient(
                base_url=url, headers=headers, timeout=20, verify=False
            ) as client:
                yield client
        finally:
            await server.stop()

    @property
    def routes(self) -> set[tuple[str, str]]:
        """Method and path of each route, as ``("GET", "/v1/models/{name}")``."""
        return {
            (method, route.path.replace(":path}", "}"))
            for route in _routes_in(self.app.routes)
            for method in route.methods
        }

    def logged(self, event: str = "request") -> list[dict[str, Any]]:
        """The log's lines of an event so far."""
        return [line for line in self.lines if line["event"] == event]

    def token(self, letter: str) -> int:
        """The token of an ASCII letter."""
        return FIRST_BYTE + ord(letter)

    def text_of(self, token_ids: Sequence[int]) -> str:
        """What tokens say, special ones included."""
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
        """The result of what ends only after a while, which passes at once."""
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
        """Every sample of ``/metrics`` by its name and labels."""
        text = (await self.get("/metrics", "root")).text
        rows = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in rows}

    # What a front asks of the cluster.

    async def base(self) -> BaseShapes:
        return SHAPES

    async def prepare(self, digest: AdapterDigest, timeout_s: float) -> tuple[Answer, ...]:
        await self.answering.wait()
        return tuple(replica.adapter_answer for replica in self._alive)

    async def prepare_router(self, router: dict[str, Any], timeout_s: float) -> tuple[Answer, ...]:
        return tuple(replica.router_answer for replica in self._alive)

    async def discover(self) -> list[ReplicaSnapshot]:
        return [replica.snapshot() for replica in self._alive]

    async def check_integrity(self) -> dict[str, Any]:
        found: list[Any] = [
            (replica.id, replica.fault) if replica.alive else ReplicaLost(f"{replica.id} is gone")
            for replica in self.replicas
        ]
        return integrity_answer(found, [replica.id for replica in self.replicas])

    async def controller_state(self) -> dict[str, Any]:
        return self.placement

    @property
    def _alive(self) -> list[ScriptedReplica]:
        return [replica for replica in self.replicas if replica.alive]


@asynccontextmanager
async def http_front(
    shared: SharedParts, folder: Path, *, replicas: int = 1, **config: Any
) -> AsyncIterator[HttpFront]:
    """A front over so many replicas.

    Args:
        shared: what fronts may share.
        folder: an empty one for its files.
        replicas: there at the start.
        config: fields of ``AppConfig``.
    """
    front = HttpFront(ManualClock(STARTED_AT))
    processors = [structlog.contextvars.merge_contextvars]
    async with AsyncExitStack() as stack:
        front.lines = stack.enter_context(  # type: ignore[assignment] # dicts of the same form
            structlog.testing.capture_logs(processors=processors)
        )
        for _ in range(replicas):
            replica = await front.add_replica()
            stack.push_async_callback(replica.die)
        front.tenants_file = folder / "tenants.yaml"
        front.sources, front.store = shared.folder / "sources", folder / "store"
        write_tenants(front.tenants_file, TENANTS)
        front.app = build_http_app(await _context(front, shared, folder, config, stack))
        transport = httpx2.ASGITransport(front.app)
        front._client = await stack.enter_async_context(
            httpx2.AsyncClient(transport=transport, base_url="http://front")
        )
        while (await front.get("/ready", None)).status_code != 200 and replicas:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        front.lines.clear()
        yield front
        figures = await front.figures()
        assert figures["braid_requests_in_flight"] == 0


def write_tenants(path: Path, tenants: tuple[dict[str, Any], ...]) -> None:
    """A tenants file in which each one's key is its id."""
    entries = [{**tenant, "keys": [hash_key(tenant["id"])]} for tenant in tenants]
    path.write_text(yaml.safe_dump({"tenants": entries}))


async def _context(
    front: HttpFront,
    shared: SharedParts,
    folder: Path,
    given: dict[str, Any],
    stack: AsyncExitStack,
) -> FrontContext:
    """As the deployment makes it, without Serve and Redis."""
    clock, codec = front.clock, shared.codec
    config = AppConfig.model_validate(_config(shared.folder, folder, front.tenants_file, given))
    location = ModelLocation(shared.folder / "base", MODEL_ID, "digest")
    catalog = scan_adapters(config, MODEL_ID)
    epochs = (f"epoch-{number}" for number in itertools.count())
    registry = AdapterRegistry(
        MemoryRegistryStore(lambda: next(epochs)), clock, reserved=base_names(MODEL_ID)
    )
    live = LiveAdapters(registry, catalog, config, clock)
    await live.start()
    stack.push_async_callback(live.close)
    file = FollowedTenants(front.tenants_file)
    tenants = LiveTenants(file, clock, config.front.tenants_interval_s, lambda _: None)
    tenants.start()
    stack.push_async_callback(tenants.close)
    directory = TenantAdapters(lambda: live.view, tenants)
    decisions = DecisionCodec(SIGNING_KEY)
    routing = RoutingService(
        routers={},
        store=MemoryDecisionStore(decisions, clock),
        directory=directory,
        codec=decisions,
        clock=clock,
        config=config.decisions,
        max_mixture=config.adapters.max_mixture,
    )
    stack.push_async_callback(routing.close)

    def use(built: BuiltRouters) -> None:
        words = {"words": WordRouter("words"), "sentences": SentenceWords("sentences")}
        routing.use({**words, **built.routers}, built.bound, built.broken)

    routers = FrontRouters(live, config, location, use)
    await routers.start()
    stack.push_async_callback(routers.close)
    picking = ClusterPolicy.fixed(config.replica.replicas).picking
    replicas = ReplicaSet(
        front.discover,
        Picker(picking),
        SIGNING_KEY,
        clock,
        interval_s=config.front.view_interval_s,
    )
    replicas.start()
    stack.push_async_callback(replicas.close)
    meter, metrics = Meter(), FrontMetrics()
    live.on_change(lambda view: meter.fold(view.versions))
    for collector in (MeterCollector(meter), ReplicaCollector(replicas), RoutingCollector(routing)):
        metrics.add_collector(collector)
    metrics.tenants_refused.set_function(lambda: tenants.state.error is not None)
    admission = Admission(MemoryQuota(clock, config.front.request_timeout_s + 60))
    stack.push_async_callback(admission.close)
    work = HeavyWork()
    stack.callback(work.close)
    names = ModelNames(MODEL_ID)
    ids = map(str, itertools.count())

    def new_id() -> RequestId:
        return RequestId(f"sequence-{next(ids)}")

    return FrontContext(
        version="1.2.3",
        started_at=STARTED_AT,
        app_config=config,
        config=config.front,
        names=names,
        tenants=tenants,
        live=live,
        adapter_admin=AdapterAdmin(
            live=live,
            config=config.adapters,
            cluster=front,
            clock=clock,
            base_dir=location.path,
            base_template=codec.chat_template and digest_of(codec.chat_template),
        ),
        router_admin=RouterAdmin(
            live=live, routers=routers, config=config, base=location, cluster=front, clock=clock
        ),
        directory=directory,
        admission=admission,
        service=RequestService(
            names=names,
            catch_up=routers.catch_up,
            routing=routing,
            replicas=replicas,
            codec=codec,
            prompts=PromptReader(codec, work),
            grammars=GrammarChecker(shared.trial),
            admission=admission,
            meter=meter,
            metrics=metrics,
            config=config.front,
            max_model_len=config.engine.max_model_len,
            clock=clock,
            new_id=new_id,
            templates=AdapterTemplates(live, directory),
        ),
        door=Door(
            authenticate=lambda request: tenants.authenticate(authorization_of(request.headers)),
            admission=admission,
            work=work,
            config=config.front,
            clock=clock,
        ),
        replicas=replicas,
        metrics=metrics,
        clock=clock,
        new_id=new_id,
        controller_state=front.controller_state,
        breaker_state=lambda: "closed",
        check_integrity=front.check_integrity,
    )


def _config(made: Path, own: Path, tenants_file: Path, given: dict[str, Any]) -> dict[str, Any]:
    adapters = {
        "store_dir": own / "store",
        "source_dir": made / "sources",
        "slots": 4,
        "max_mixture": 3,
        **given.pop("adapters", {}),
    }
    front = {"view_interval_s": 0.02, "tenants_interval_s": 0.05, **given.pop("front", {})}
    return {
        "model": MODEL_ID,
        "adapters_dir": made / "adapters",
        "tenants_file": tenants_file,
        "routers": [{"name": "fixed", "path": str(made / "fixed")}],
        "adapters": adapters,
        "front": front,
        **given,
    }


def _routes_in(routes: Any) -> list[APIRoute]:
    found: list[APIRoute] = []
    for route in routes:
        if isinstance(route, APIRoute):
            found.append(route)
        elif hasattr(route, "original_router"):
            found += _routes_in(route.original_router.routes)
    return found
