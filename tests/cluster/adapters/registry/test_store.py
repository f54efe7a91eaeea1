"""Both stores: revisions, differences, conditional writes."""

import asyncio
from collections.abc import Callable

from cluster.adapters.registry.registry_store import RegistryStore, Revision

MakeStore = Callable[[], RegistryStore]


async def test_an_empty_registry_has_no_epoch(make_store: MakeStore) -> None:
    store = make_store()
    assert await store.revision() == Revision()
    changes = await store.changes(Revision())
    assert (changes.revision, dict(changes.fields)) == (Revision(), {})


async def test_changes_are_those_after_a_revision(make_store: MakeStore) -> None:
    writer, reader = make_store(), make_store()
    first = await writer.commit({}, {"n:a": b"1", "n:b": b"\x00\xff"})
    assert first is not None
    assert await reader.revision() == first
    all_of_it = await reader.changes(Revision())
    assert all_of_it.full
    assert dict(all_of_it.fields) == {"n:a": b"1", "n:b": b"\x00\xff"}
    second = await writer.commit({"n:a": b"1"}, {"n:a": None, "n:c": b""})
    assert second is not None
    assert second.epoch == first.epoch
    assert second.number > first.number
    since = await reader.changes(first)
    assert not since.full
    assert dict(since.fields) == {"n:a": None, "n:c": b""}
    assert dict((await reader.changes(second)).fields) == {}


async def test_a_commit_whose_expectation_fails_writes_nothing(make_store: MakeStore) -> None:
    store = make_store()
    revision = await store.commit({"n:a": None}, {"n:a": b"1"})
    for expect in ({"n:a": None}, {"n:a": b"2"}, {"n:b": b""}, {"n:a": b"1", "n:b": b"1"}):
        assert await store.commit(expect, {"n:a": b"9", "n:b": b"9"}) is None
    assert await store.revision() == revision
    assert dict((await store.changes(Revision())).fields) == {"n:a": b"1"}


async def test_of_many_at_once_exactly_one_wins(make_store: MakeStore) -> None:
    stores = [make_store() for _ in range(8)]
    commits = (s.commit({"n:a": None}, {"n:a": str(n).encode()}) for n, s in enumerate(stores))
    revisions = await asyncio.gather(*commits)
    (winner,) = [n for n, revision in enumerate(revisions) if revision is not None]
    assert dict((await stores[0].changes(Revision())).fields) == {"n:a": str(winner).encode()}


async def test_who_missed_more_removals_than_are_kept_reads_everything(
    make_store: MakeStore,
) -> None:
    store = make_store()
    old = await store.commit({}, {f"n:{n}": b"1" for n in range(8)})
    assert old is not None
    recent = old
    for n in range(5):
        recent = await store.commit({}, {f"n:{n}": None})
        assert recent is not None
    assert (await store.changes(old)).full
    assert not (await store.changes(recent)).full
    assert set((await store.changes(old)).fields) == {"n:5", "n:6", "n:7"}


async def test_a_version_of_another_epoch_or_the_future_is_answered_in_full(
    make_store: MakeStore,
) -> None:
    store = make_store()
    revision = await store.commit({}, {"n:a": b"1"})
    assert revision is not None
    for unknown in (
        Revision("other", revision.number),
        Revision(revision.epoch, revision.number + 1),
    ):
        changes = await store.changes(unknown)
        assert (changes.revision, changes.full) == (revision, True)
        assert dict(changes.fields) == {"n:a": b"1"}
