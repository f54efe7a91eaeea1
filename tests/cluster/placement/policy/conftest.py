"""A real server for the tests of what is kept."""

from collections.abc import AsyncIterator

import pytest

from cluster.placement.policy.policy_store import PolicyStore
from cluster.redis_client import redis_client


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[PolicyStore]:
    made = PolicyStore(redis_client(redis_url, timeout_s=1.0, name="store"))
    yield made
    await made.close()
