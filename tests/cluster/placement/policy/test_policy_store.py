"""Versions of the policy in a real server: compare and set, files, overrides, what is kept."""

import asyncio

import pytest
import redis

from cluster.errors import StoreUnavailable
from cluster.placement.policy import policy_store
from cluster.placement.policy.policy_store import CURRENT, STEM, PolicyStore, digest_of_text
from cluster.placement.policy.policy_versions import Commit, CommitOutcome, PolicyDraft
from cluster.redis_client import redis_client

pytestmark = [pytest.mark.redis]
KEPT, SAME = CommitOutcome.KEPT, CommitOutcome.SAME


def draft(text: str, author: str = "ann") -> PolicyDraft:
    return PolicyDraft(text, author, f"because of {text}")


async def test_nothing_is_in_force_at_first(store: PolicyStore) -> None:
    state = await store.read()
    assert (state.number, state.version, state.file, state.newest) == (0, None, "", 0)
    assert await store.history(10) == ()
    assert await store.version(1) is None


async def test_a_version_is_read_as_it_was_kept(store: PolicyStore) -> None:
    text = "# Gründe\nreplicas: {max: 3}\n"
    assert await store.commit(draft(text)) == Commit(KEPT, 1)
    state = await store.read()
    assert state.version is not None
    version = state.version
    assert (version.number, version.text, version.author) == (1, text, "ann")
    assert (version.message, version.source) == (f"because of {text}", "applied")
    assert version.sha256 == digest_of_text(text)
    assert version.at > 1.6e9
    assert (await store.read(known=1)).version is None, "the caller has it"


async def test_the_same_text_is_no_new_version(store: PolicyStore) -> None:
    await store.commit(draft("a: 1"))
    assert await store.commit(draft("a: 1", "bob")) == Commit(SAME, 1)
    assert await store.commit(draft("a: 2")) == Commit(KEPT, 2)
    assert await store.commit(draft("a: 1")) == Commit(KEPT, 3), "not in force any more"


async def test_one_of_two_that_expect_the_same_version_wins(store: PolicyStore) -> None:
    await store.commit(draft("a: 0"))
    found = await asyncio.gather(
        *(store.commit(draft(f"a: {number}"), expected=1) for number in range(1, 9))
    )
    assert sorted(commit.outcome for commit in found) == ["changed"] * 7 + ["kept"]
    assert {commit.number for commit in found} == {2}
    assert (await store.read()).newest == 2


async def test_a_file_is_overridden_for_a_time_only(store: PolicyStore) -> None:
    assert await store.commit(draft("a: 1"), file="/etc/p.yaml") == Commit(KEPT, 1)
    assert (await store.commit(draft("a: 2"))).outcome is CommitOutcome.MANAGED
    assert await store.commit(draft("a: 2"), override_s=0.3) == Commit(KEPT, 2)
    state = await store.read()
    assert (state.number, state.base, state.file) == (2, 1, "/etc/p.yaml")
    assert 0.0 < state.override_left_s <= 0.3
    assert await store.commit(draft("a: 3"), file="/etc/p.yaml") == Commit(KEPT, 3)
    state = await store.read()
    assert (state.number, state.base) == (2, 3), "an edit of the file waits for its turn"
    await asyncio.sleep(0.35)
    state = await store.read(known=2)
    assert (state.number, state.override_left_s) == (3, 0.0)
    assert state.version is not None
    assert state.version.text == "a: 3"


async def test_an_override_can_be_prolonged_and_replaced(store: PolicyStore) -> None:
    await store.commit(draft("a: 1"), file="/p")
    await store.commit(draft("a: 2"), override_s=60)
    assert await store.commit(draft("a: 2"), override_s=120) == Commit(SAME, 2)
    assert 100 < (await store.read()).override_left_s <= 120
    assert await store.commit(draft("a: 3"), override_s=60, expected=2) == Commit(KEPT, 3)
    assert (await store.read()).number == 3


async def test_the_text_of_the_file_can_be_held_by_an_override(store: PolicyStore) -> None:
    await store.commit(draft("a: 1"), file="/p")
    assert await store.commit(draft("a: 1"), override_s=60) == Commit(SAME, 1)
    await store.commit(draft("a: 2"), file="/p")
    state = await store.read()
    assert (state.number, state.base) == (1, 2), "an edit of the file waits for its turn"


@pytest.mark.parametrize(("text", "expected"), [("a: 2", (SAME, 2)), ("a: 3", (KEPT, 3))])
async def test_a_text_without_a_file_ends_the_override_that_the_file_had(
    store: PolicyStore, text: str, expected: tuple[CommitOutcome, int]
) -> None:
    await store.commit(draft("a: 1"), file="/p")
    await store.commit(draft("a: 2"), override_s=60)
    await store.release()
    assert await store.commit(draft(text)) == Commit(*expected)
    state = await store.read()
    assert (state.number, state.base, state.override_left_s) == (expected[1], expected[1], 0.0)


async def test_without_a_file_there_is_nothing_to_override(store: PolicyStore) -> None:
    commit = await store.commit(draft("a: 1"), override_s=60)
    assert commit.outcome is CommitOutcome.UNMANAGED
    await store.commit(draft("a: 1"), file="/p")
    await store.release()
    assert (await store.read()).file == ""
    assert (await store.commit(draft("a: 2"))).outcome is KEPT


async def test_old_versions_go_and_what_is_in_force_stays(
    store: PolicyStore, empty_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_store, "VERSIONS_KEPT", 3)
    await store.commit(draft("a: 0"), file="/p")
    for number in range(1, 6):
        await store.commit(draft(f"a: {number}"), override_s=60)
    assert [version.number for version in await store.history(10)] == [6, 5, 4, 1]
    assert not any(empty_redis.ttl(key) >= 0 for key in empty_redis.keys(f"{STEM}*"))


async def test_numbers_go_on_after_the_server_has_lost_its_data(
    store: PolicyStore, empty_redis: redis.Redis
) -> None:
    await store.commit(draft("a: 1"))
    await store.commit(draft("a: 2"))
    empty_redis.flushall()
    assert await store.commit(draft("a: 2"), expected=0, above=2) == Commit(KEPT, 3)
    assert (await store.commit(draft("b: 1"), expected=0)).outcome is CommitOutcome.CHANGED


async def test_a_change_is_announced(store: PolicyStore, redis_url: str) -> None:
    other = PolicyStore(redis_client(redis_url, timeout_s=1.0, name="other"))
    await other.wait(1.0)  # the subscription is confirmed
    waiting = asyncio.create_task(other.wait(30.0))
    await asyncio.sleep(0.05)
    await store.commit(draft("a: 1"))
    await asyncio.wait_for(waiting, 5.0)
    await other.close()


async def test_a_server_that_is_away_is_said() -> None:
    away = PolicyStore(redis_client("redis://127.0.0.1:1/0", timeout_s=0.2, name="away"))
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await away.read()
    with pytest.raises(StoreUnavailable):
        await away.commit(draft("a: 1"))
    with pytest.raises(StoreUnavailable):
        await away.history(3)
    await away.close()


def test_the_keys_are_those_of_the_documentation() -> None:
    assert (STEM, CURRENT) == ("braid:v1:policy", "braid:v1:policy:current")
