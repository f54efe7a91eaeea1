"""Checks routers in the registry: next to adapters, under the same versions."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster.adapters.registry.records import RouterRecord
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.domain.adapter import SHARED_OWNER
from cluster.errors import RouterConflict, RouterError, RouterNotFound
from tests.support.registry import digest, version


def router(name: str = "gate", version: str = "1", at: float = 1.0, **fields: Any) -> RouterRecord:
    return RouterRecord(name, "flow", version * 64, at, at, "admin", **fields)


async def test_a_router_is_put_replaced_and_removed(
    make_registry: Callable[[], AdapterRegistry],
) -> None:
    registry, other = make_registry(), make_registry()
    seen: list[int] = []
    other.on_change(lambda view: seen.append(len(view.routers)))
    put = await registry.put_router(router(options={"top_p": 0.5}), replaces=False)
    assert (await other.sync()).routers == {"gate": put}
    with pytest.raises(RouterConflict, match="'gate' exists"):
        await other.put_router(router(version="2"), replaces=False)
    new = await other.put_router(router(version="2", at=5.0), replaces=True)
    assert (new.version, new.added_at, new.changed_at) == ("2" * 64, 1.0, 5.0)
    assert (await registry.sync()).routers["gate"] == new
    assert (await registry.remove_router("gate")).routers == {}
    with pytest.raises(RouterNotFound):
        await other.remove_router("gate")
    await other.sync()
    assert seen[-1] == 0


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65])
async def test_names_that_cannot_be(registry: AdapterRegistry, name: str) -> None:
    with pytest.raises(RouterError, match="must match"):
        await registry.put_router(router(name), replaces=True)


async def test_adapters_and_routers_do_not_meet(registry: AdapterRegistry) -> None:
    await registry.stage(version("a"), "shared/gate")
    await registry.put_router(router(), replaces=False)
    await registry.switch(SHARED_OWNER, "gate", digest("a"), expected=None, by="admin")
    await registry.remove_router("gate")
    view = await registry.sync()
    assert list(view.names) == ["shared/gate"]
    view.check_integrity()


async def test_what_is_in_a_history_is_at_hand_until_it_is_removed(
    registry: AdapterRegistry,
) -> None:
    for letter in "ab":
        await registry.stage(version(letter), "shared/x")
        await registry.switch(SHARED_OWNER, "x", digest(letter), expected=None, by="admin")
    view = await registry.sync()
    assert view.is_at_hand(digest("a"))
    assert not view.is_at_hand(digest("c"))
    view = await registry.retire_version(digest("a"), force=True)
    assert not view.is_at_hand(digest("a"))
