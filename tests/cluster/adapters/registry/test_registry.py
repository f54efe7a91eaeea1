"""Checks what an operator can do, over both stores."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from cluster.adapters.registry.operations import ABSENT
from cluster.adapters.registry.records import AdapterVersion, PlaceKind, VersionState
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.adapters.registry.registry_store import RegistryStore, Revision
from cluster.adapters.registry.registry_view import RegistryView
from cluster.domain.adapter import SHARED_OWNER
from cluster.domain.ids import TenantId
from cluster.errors import (
    AdapterConflict,
    AdapterError,
    AdapterInUse,
    AdapterNotFound,
    IntegrityError,
    ModelNotFound,
)
from tests.support.manual_clock import ManualClock
from tests.support.registry import digest, version

ACME, GLOBEX = TenantId("acme"), TenantId("globex")


class Rights:
    def __init__(self, *aliases: str) -> None:
        self.aliases = aliases

    def may_use(self, alias: str) -> bool:
        return alias in self.aliases


async def put(registry: AdapterRegistry, alias: str, letter: str, **fields) -> None:
    owner = fields.pop("owner", SHARED_OWNER)
    fields = {"expected": None, "by": "admin", **fields}
    await registry.stage(version(letter), f"{owner}/{alias}")
    await registry.switch(owner, alias, digest(letter), **fields)


async def test_another_process_follows(make_registry: Callable[[], AdapterRegistry]) -> None:
    writer, reader = make_registry(), make_registry()
    seen: list[RegistryView] = []
    reader.on_change(seen.append)
    await put(writer, "sql", "a")
    await reader.sync()
    await reader.sync()
    assert len(seen) == 1
    assert reader.view == writer.view
    assert reader.view.resolve(ACME, "sql", Rights("sql")).digest == digest("a")
    await put(writer, "sql", "b")
    assert reader.view.resolve(ACME, "sql", Rights("sql")).digest == digest("a")
    await reader.sync()
    assert reader.view.resolve(ACME, "sql", Rights("sql")).digest == digest("b")
    reader.view.check_integrity()


async def test_a_look_that_began_later_will_do(
    make_store: Callable[[], RegistryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, store = ManualClock(), make_store()
    reader = AdapterRegistry(store, clock)
    looks = 0
    revision = store.revision

    async def counted() -> Revision:
        nonlocal looks
        looks += 1
        return await revision()

    monkeypatch.setattr(store, "revision", counted)
    await asyncio.gather(*(reader.sync(since=clock.monotonic()) for _ in range(3)))
    assert looks == 3, "each began when the others asked, which is not after"
    asked = clock.monotonic()
    clock.advance(0.001)
    await put(AdapterRegistry(make_store(), clock), "sql", "a")
    looks = 0
    await asyncio.gather(*(reader.sync(since=asked) for _ in range(3)))
    assert looks == 1
    assert reader.view.resolve(ACME, "sql", Rights("sql")).digest == digest("a")


async def test_replacing_compares_first(registry: AdapterRegistry) -> None:
    await put(registry, "sql", "a", expected=ABSENT)
    with pytest.raises(AdapterConflict, match="exists already"):
        await put(registry, "sql", "b", expected=ABSENT)
    with pytest.raises(AdapterConflict, match=digest("a")):
        await put(registry, "sql", "b", expected=digest("c"))
    await put(registry, "sql", "b", expected=digest("a"))
    name = registry.view.name(SHARED_OWNER, "sql")
    assert [step.digest for step in name.history] == [digest("a"), digest("b")]


async def test_two_adds_of_one_name_at_once(
    make_registry: Callable[[], AdapterRegistry],
) -> None:
    registries = [make_registry() for _ in range(4)]
    outcomes = await asyncio.gather(
        *(
            put(registry, "sql", letter, expected=ABSENT)
            for registry, letter in zip(registries, "abcd", strict=True)
        ),
        return_exceptions=True,
    )
    assert [outcome is None for outcome in outcomes].count(True) == 1
    assert {type(outcome) for outcome in outcomes} == {type(None), AdapterConflict}
    winner = "abcd"[outcomes.index(None)]
    view = await registries[0].sync()
    assert view.name(SHARED_OWNER, "sql").digest == digest(winner)


async def test_rolling_back_goes_further_each_time(registry: AdapterRegistry) -> None:
    for letter in "abc":
        await put(registry, "sql", letter)
    for letter in "ba":
        name = await registry.roll_back(SHARED_OWNER, "sql", expected=None, by="admin")
        assert name.digest == digest(letter)
    with pytest.raises(AdapterConflict, match="no earlier"):
        await registry.roll_back(SHARED_OWNER, "sql", expected=None, by="admin")
    await registry.switch(SHARED_OWNER, "sql", digest("c"), expected=digest("a"), by="admin")
    name = await registry.roll_back(SHARED_OWNER, "sql", expected=digest("c"), by="admin")
    assert name.digest == digest("a"), "what was there before, not what was rolled back from"
    registry.view.check_integrity()


async def test_removing_a_name_retires_what_only_it_had(registry: AdapterRegistry) -> None:
    await put(registry, "sql", "a")
    await put(registry, "sql", "b")
    await put(registry, "query", "b")
    await registry.remove_name(SHARED_OWNER, "sql", expected=digest("b"), force=False)
    view = registry.view
    assert view.version(digest("a")).state is VersionState.RETIRED
    assert view.version(digest("b")).state is VersionState.SERVED
    assert view.by_digest(digest("a")).key.digest == digest("a"), "running requests still find it"
    assert view.by_digest(digest("b")).key.alias == "query"
    with pytest.raises(AdapterNotFound):
        await registry.remove_name(SHARED_OWNER, "sql", expected=None, force=False)
    view.check_integrity()


async def test_pins(registry: AdapterRegistry) -> None:
    await put(registry, "sql", "a")
    await registry.pin_name(SHARED_OWNER, "sql", True)
    assert registry.view.pinned == {digest("a")}
    await put(registry, "sql", "b")
    assert registry.view.pinned == {digest("b")}, "a pin follows its name"
    with pytest.raises(AdapterInUse, match="pinned"):
        await registry.remove_name(SHARED_OWNER, "sql", expected=None, force=False)
    await registry.pin_name(SHARED_OWNER, "sql", False)
    assert registry.view.pinned == frozenset()
    await registry.pin_name(SHARED_OWNER, "sql", True)
    await registry.remove_name(SHARED_OWNER, "sql", expected=None, force=True)
    assert registry.view.pinned == frozenset()


async def test_a_version_in_use_is_removed_by_force_alone(registry: AdapterRegistry) -> None:
    await put(registry, "sql", "a")
    await put(registry, "sql", "b")
    await put(registry, "query", "a")
    with pytest.raises(AdapterInUse, match="shared/query"):
        await registry.retire_version(digest("a"), force=False)
    await registry.retire_version(digest("a"), force=True)
    view = registry.view
    assert list(view.names) == ["shared/sql"]
    assert [step.digest for step in view.name(SHARED_OWNER, "sql").history] == [digest("b")]
    assert view.version(digest("a")).state is VersionState.RETIRED
    view.check_integrity()


async def test_deletion_cannot_be_overtaken(registry: AdapterRegistry) -> None:
    await put(registry, "sql", "a")
    with pytest.raises(AdapterInUse):
        await registry.begin_collect(digest("a"))
    await registry.remove_name(SHARED_OWNER, "sql", expected=None, force=False)
    await registry.begin_collect(digest("a"))
    with pytest.raises(AdapterConflict, match="being removed"):
        await put(registry, "sql", "a")
    await registry.finish_collect(digest("a"))
    assert registry.view.versions == {}
    await put(registry, "sql", "a")
    with pytest.raises(AdapterInUse):
        await registry.finish_collect(digest("a"))


async def test_a_retired_version_comes_back(registry: AdapterRegistry) -> None:
    await put(registry, "sql", "a")
    await registry.remove_name(SHARED_OWNER, "sql", expected=None, force=False)
    await put(registry, "sql", "a", expected=ABSENT)
    assert registry.view.version(digest("a")).state is VersionState.SERVED
    await registry.retire_staged(digest("a"))
    assert registry.view.version(digest("a")).state is VersionState.SERVED
    registry.view.check_integrity()


async def test_who_sees_what(registry: AdapterRegistry) -> None:
    await put(registry, "sql", "a")
    await put(registry, "sql", "b", owner=ACME)
    await put(registry, "open", "c", grants=("*",))
    await put(registry, "some", "d", grants=("globex",))
    view = registry.view
    everything, nothing = Rights("sql", "open", "some"), Rights()
    assert view.resolve(ACME, "sql", nothing).digest == digest("b"), "its own"
    assert view.resolve(GLOBEX, "sql", everything).digest == digest("a")
    messages = set()
    for tenant, alias in ((GLOBEX, "sql"), (ACME, "some"), (ACME, "unknown")):
        with pytest.raises(ModelNotFound) as refusal:
            view.resolve(tenant, alias, nothing)
        messages.add(refusal.value.message.replace(alias, "X"))
    assert len(messages) == 1, "a foreign adapter must look like an unknown one"
    assert list(view.visible(ACME, nothing)) == ["open", "sql"]
    assert list(view.visible(GLOBEX, nothing)) == ["open", "some"]
    assert view.visible(ACME, everything)["sql"].digest == digest("b")


@pytest.mark.parametrize("alias", ["auto", "Base", "org/base", "a b", "", "../up", "x" * 65])
async def test_names_that_cannot_be(registry: AdapterRegistry, alias: str) -> None:
    await registry.stage(version("a"), "shared/x")
    with pytest.raises(AdapterError):
        await registry.switch(SHARED_OWNER, alias, digest("a"), expected=None, by="admin")
    assert registry.view.names == {}


async def test_names_that_differ_by_case_only(registry: AdapterRegistry) -> None:
    await put(registry, "sql", "a")
    with pytest.raises(AdapterError, match="case"):
        await put(registry, "SQL", "b")


def folder(**letters: str) -> dict[str, AdapterVersion]:
    return {alias: version(letter, PlaceKind.FOLDER, alias) for alias, letter in letters.items()}


async def test_the_folder_speaks_when_its_bytes_change(registry: AdapterRegistry) -> None:
    def points_to() -> dict[str, str]:
        return {name.alias: name.digest[0] for name in registry.view.names.values()}

    await registry.sync_folder(folder(sql="a", json="b"))
    assert points_to() == {"sql": "a", "json": "b"}
    revision = registry.view.revision
    await registry.sync_folder(folder(sql="a", json="b"))
    assert registry.view.revision == revision, "nothing new, nothing written"
    await put(registry, "sql", "c")
    await registry.remove_name(SHARED_OWNER, "json", expected=None, force=False)
    await registry.sync_folder(folder(sql="a", json="b"))
    assert points_to() == {"sql": "c"}, "a restart undoes no operator's change"
    await registry.sync_folder(folder(sql="d", json="e"))
    assert points_to() == {"sql": "c"}, "nor do new bytes"
    await put(registry, "sql", "d")
    await registry.sync_folder(folder(sql="f"))
    assert points_to() == {"sql": "f"}
    await registry.sync_folder({})
    assert points_to() == {}
    registry.view.check_integrity()


async def test_an_upload_of_the_folders_bytes_outlives_the_folder(
    registry: AdapterRegistry,
) -> None:
    await registry.sync_folder(folder(sql="a"))
    await put(registry, "mine", "a")
    assert registry.view.version(digest("a")).place.kind is PlaceKind.STORE
    await registry.sync_folder({})
    assert [name.id for name in registry.view.names.values()] == ["shared/mine"]
    registry.view.check_integrity()


async def test_concurrent_changes_of_different_names_all_succeed(
    make_registry: Callable[[], AdapterRegistry],
) -> None:
    registries = [make_registry() for _ in range(6)]
    await asyncio.gather(
        *(put(registry, f"n{number}", "a") for number, registry in enumerate(registries))
    )
    view = await registries[0].sync()
    assert len(view.names) == 6
    assert view.version(digest("a")).names == tuple(f"shared/n{n}" for n in range(6))
    view.check_integrity()


async def test_damage_is_found(registry: AdapterRegistry) -> None:
    await put(registry, "sql", "a")
    view = registry.view
    broken = replace(view, names={})
    with pytest.raises(IntegrityError):
        broken.check_integrity()
