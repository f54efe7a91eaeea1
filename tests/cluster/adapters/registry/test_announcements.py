"""A change is seen by other processes at once, not at their next look."""

import asyncio
from collections.abc import Callable

from cluster.adapters.registry.follower import RegistryFollower
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.domain.adapter import SHARED_OWNER
from tests.support.registry import digest, version

NEVER_S = 600.0
PATIENCE_S = 20.0


async def test_two_fronts_see_each_others_changes_at_once(
    make_registry: Callable[[], AdapterRegistry],
) -> None:
    one, two = make_registry(), make_registry()
    followers = [RegistryFollower(registry, {}, interval_s=NEVER_S) for registry in (one, two)]
    for follower in followers:
        await follower.start()
    await asyncio.sleep(0)  # both listen now
    for writer, reader, letter in ((one, two, "a"), (two, one, "b"), (one, two, "c")):
        await writer.stage(version(letter), "shared/sql")
        await writer.point(SHARED_OWNER, "sql", digest(letter), expected=None, by="admin")
        async with asyncio.timeout(PATIENCE_S):
            while (  # noqa: ASYNC110 - the follower changes what it reads
                reader.view.names.get("shared/sql") != writer.view.names["shared/sql"]
            ):
                await asyncio.sleep(0.001)
    for follower in followers:
        await follower.close()


async def test_waiting_ends_without_a_change(make_registry: Callable[[], AdapterRegistry]) -> None:
    registry = make_registry()
    async with asyncio.timeout(PATIENCE_S):
        await registry.wait(0.01)
        await registry.wait(0.01)
