"""Registries over both stores."""

import itertools
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from cluster.adapters.registry.memory_store import MemoryRegistryStore
from cluster.adapters.registry.redis_store import RedisRegistryStore
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.adapters.registry.registry_store import RegistryStore
from tests.support.manual_clock import ManualClock

REMOVED_KEPT = 3

_numbers = itertools.count()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def make_store(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[], RegistryStore]]:
    """Every call opens the same registry, as another process would."""
    made: list[RegistryStore] = []
    number = next(_numbers)

    def new_epoch() -> str:
        return f"epoch-{next(_numbers)}"

    def make() -> RegistryStore:
        if request.param == "memory":
            made.append(made[0] if made else MemoryRegistryStore(new_epoch, REMOVED_KEPT))
        else:
            client = Redis.from_url(request.getfixturevalue("redis_url"))
            made.append(RedisRegistryStore(client, f"base {number}", new_epoch, REMOVED_KEPT))
        return made[-1]

    yield make
    for store in made:
        await store.close()


@pytest.fixture
def make_registry(make_store: Callable[[], RegistryStore]) -> Callable[[], AdapterRegistry]:
    return lambda: AdapterRegistry(make_store(), ManualClock(), reserved=("org/base", "Base"))


@pytest.fixture
def registry(make_registry: Callable[[], AdapterRegistry]) -> AdapterRegistry:
    return make_registry()
