"""A pool of connections grows with concurrency, to its bound, and loses none."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from random import Random

import pytest
from redis.asyncio import Redis

from cluster.errors import ConfigError
from cluster.redis_client import MAX_CONNECTIONS, redis_client
from deployments.local.valkey import EmbeddedValkey

pytestmark = pytest.mark.redis
NAME = "braid-test"


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A server that keeps its port when it is started again."""
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def client(valkey: EmbeddedValkey) -> AsyncIterator[Redis]:
    """The client under test; its pool must be whole at the end."""
    made = redis_client(valkey.url, timeout_s=5.0, name=NAME)
    yield made
    pool = made.connection_pool
    assert not pool._in_use_connections, "a connection was never given back"
    assert len(pool._available_connections) <= MAX_CONNECTIONS
    await made.aclose()


async def held(valkey: EmbeddedValkey) -> int:
    """Count the connections of the client under test, as the server sees them."""
    async with contextlib.aclosing(
        redis_client(valkey.url, timeout_s=5.0, name="braid-probe")
    ) as probe:
        return sum(item["name"] == NAME for item in await probe.client_list())


async def test_it_grows_with_concurrency_up_to_its_bound(
    valkey: EmbeddedValkey, client: Redis
) -> None:
    for _ in range(5):
        await client.set("key", "value")
    assert await held(valkey) == 1, "one after the other share a connection"
    await asyncio.gather(*(client.get("key") for _ in range(4)))
    assert 1 < await held(valkey) <= 4
    found = await asyncio.gather(*(client.get("key") for _ in range(10 * MAX_CONNECTIONS)))
    assert found == [b"value"] * (10 * MAX_CONNECTIONS)
    assert await held(valkey) <= MAX_CONNECTIONS


async def test_commands_that_are_given_up_lose_no_connection(
    valkey: EmbeddedValkey, client: Redis
) -> None:
    """Clients leave at any point of a command; what they held is free for the next."""
    rng = Random(0)

    async def command(number: int) -> None:
        await client.set(f"key-{number}", "value")
        assert await client.get(f"key-{number}") == b"value", "an answer of somebody else's"

    for _ in range(20):
        tasks = [asyncio.create_task(command(number)) for number in range(2 * MAX_CONNECTIONS)]
        for task in tasks:
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
            if rng.random() < 0.7:
                task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert ended is None or isinstance(ended, asyncio.CancelledError)
    assert await held(valkey) <= MAX_CONNECTIONS


async def test_a_server_that_comes_back_is_not_given_new_ones_beside_the_old(
    valkey: EmbeddedValkey, client: Redis
) -> None:
    for _ in range(3):
        await asyncio.gather(*(client.ping() for _ in range(8)))
        known = len(client.connection_pool._available_connections)
        valkey.stop()
        valkey.start()
        await asyncio.gather(*(client.ping() for _ in range(8)))
        assert len(client.connection_pool._available_connections) <= max(known, 8)
        assert await held(valkey) <= 8


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="redis_url"):
        redis_client("http://example.org", timeout_s=1.0, name=NAME)
