"""The controller's policy: from a file, from the store, through losses and restarts."""

import asyncio
from pathlib import Path

import pytest
import redis

from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.policy_load import parse_policy
from cluster.placement.policy.policy_store import CURRENT, STEM, PolicyStore
from cluster.placement.policy.policy_versions import PolicyDraft
from deployments.controller import policy_follower
from tests.support.policy_follower_rig import Make, draft, edit, observes

pytestmark = [pytest.mark.redis]


async def test_without_a_file_and_a_version_the_defaults_rule(make: Make) -> None:
    follower = make()
    await follower.sync()
    assert (follower.policy, follower.version) == (ClusterPolicy.fixed(3), 0)
    assert follower.known
    assert follower.error is None


async def test_an_applied_version_is_laid_over_the_defaults(make: Make, store: PolicyStore) -> None:
    follower = make()
    changes: list[int] = []
    follower.on_change(lambda: changes.append(follower.version))
    await store.commit(draft(5))
    await follower.sync()
    await follower.sync()
    assert (follower.policy.replicas.min, follower.policy.replicas.max) == (3, 5)
    assert (follower.version, changes) == (1, [1])


async def test_the_file_is_a_version_and_so_is_each_edit(
    make: Make, store: PolicyStore, path: Path
) -> None:
    follower = make(path)
    await follower.sync()
    assert follower.version == 1
    edit(path, "replicas: {max: 6}")
    await follower.sync()
    assert (follower.version, follower.policy.replicas.max) == (2, 6)
    history = await store.history(9)
    assert [(one.number, one.author, one.source) for one in history] == [
        (2, "file", "file"),
        (1, "file", "file"),
    ]
    assert history[0].message == f"read from {path}"


async def test_a_broken_edit_leaves_the_version_in_force(make: Make, path: Path) -> None:
    follower = make(path)
    await follower.sync()
    for text, words in (("replicas: {mxa: 5}", "replicas.mxa"), ("{", "not valid YAML")):
        edit(path, text)
        await follower.sync()
        assert (follower.version, follower.policy.replicas.max) == (1, 4)
        assert words in (follower.error or "")
    edit(path, None)
    await follower.sync()
    assert "cannot be read" in (follower.error or "")
    edit(path, "replicas: {max: 4}")
    await follower.sync()
    assert (follower.version, follower.error) == (1, None)


@pytest.mark.parametrize("text", ["", "# later\n", "~", "{}", "version: 2\nreplicas:\n"])
async def test_an_empty_file_leaves_the_version_in_force(
    make: Make, store: PolicyStore, path: Path, text: str
) -> None:
    follower = make(path)
    await follower.sync()
    edit(path, text)
    for _ in range(3):
        await follower.sync()
    assert (follower.version, follower.policy.replicas.max) == (1, 4)
    assert "empty" in (follower.error or "")
    assert len(await store.history(9)) == 1


async def test_a_file_that_is_being_written_is_not_taken_for_a_shorter_one(
    make: Make, store: PolicyStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the text is a policy too."""
    whole = "version: 2\nreplicas:\n  max: 4\n"
    edit(path, whole)
    follower = make(path)
    await follower.sync()
    pauses = 0

    async def written_meanwhile(seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        edit(path, whole)

    monkeypatch.setattr(asyncio, "sleep", written_meanwhile)
    for half in ("version: 2\n", "version: 2\nreplicas: {}\n"):
        edit(path, half)
        await follower.sync()
        await follower.sync()
    monkeypatch.undo()
    assert pauses >= 2
    assert (follower.version, follower.policy.replicas.max, follower.error) == (1, 4, None)
    assert len(await store.history(9)) == 1


async def test_the_file_is_parsed_when_it_has_changed(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def noting(content: bytes, *, source: str, defaults: ClusterPolicy) -> ClusterPolicy:
        parsed.append(source)
        return parse_policy(content, source=source, defaults=defaults)

    monkeypatch.setattr(policy_follower, "parse_policy", noting)
    follower = make(path)
    for text in ("replicas: {max: 4}", "adapters: 3", "replicas: {max: 4}"):
        edit(path, text)
        for _ in range(3):
            await follower.sync()
            assert (follower.error is None) == (text != "adapters: 3")
    assert parsed.count(str(path)) == 3


async def test_a_restart_with_the_same_file_makes_no_version(
    make: Make, store: PolicyStore, path: Path
) -> None:
    await make(path).sync()
    again = make(path)
    await again.sync()
    assert again.version == 1
    assert len(await store.history(9)) == 1


async def test_an_edit_while_no_controller_ran_is_taken_in(make: Make, path: Path) -> None:
    await make(path).sync()
    edit(path, "replicas: {max: 7}")
    again = make(path)
    await again.sync()
    assert (again.version, again.policy.replicas.max) == (2, 7)


async def test_an_override_falls_back_by_itself(make: Make, store: PolicyStore, path: Path) -> None:
    follower = make(path)
    await follower.sync()
    await store.commit(draft(9), override_s=0.3)
    await follower.sync()
    assert (follower.version, follower.policy.replicas.max) == (2, 9)
    await asyncio.sleep(0.35)
    await follower.sync()
    assert (follower.version, follower.policy.replicas.max) == (1, 4)


async def test_a_file_that_is_configured_no_more_manages_nothing(
    make: Make, store: PolicyStore, path: Path
) -> None:
    await make(path).sync()
    follower = make()
    await follower.sync()
    assert (follower.version, follower.policy.replicas.max) == (1, 4), "it stays in force"
    await store.commit(draft(5))
    await follower.sync()
    assert follower.policy.replicas.max == 5


async def test_a_server_that_lost_its_data_is_given_the_policy_again(
    make: Make, store: PolicyStore, empty_redis: redis.Redis
) -> None:
    follower, other = make(), make()
    await store.commit(draft(5))
    await follower.sync()
    await other.sync()
    empty_redis.flushall()
    await asyncio.gather(follower.sync(), other.sync())
    await asyncio.gather(follower.sync(), other.sync())
    assert follower.version == other.version == 2
    assert follower.policy.replicas.max == 5
    (kept,) = await store.history(9)
    assert (kept.text, kept.author, kept.message) == ("replicas: {max: 5}", "ann", "more")


async def test_a_server_that_lost_its_data_is_given_the_file_again(
    make: Make, store: PolicyStore, empty_redis: redis.Redis, path: Path
) -> None:
    follower = make(path)
    await follower.sync()
    await store.commit(draft(9), override_s=60)
    await follower.sync()
    empty_redis.flushall()
    await follower.sync()
    await follower.sync()
    assert follower.policy.replicas.max == 4
    assert (await store.read()).file == str(path)


async def test_a_version_that_cannot_be_read_leaves_the_last_one(
    make: Make, store: PolicyStore, empty_redis: redis.Redis
) -> None:
    follower = make()
    await store.commit(draft(5))
    await follower.sync()
    await store.commit(PolicyDraft("replicas: {of_a_later_release: 1}", "bob", "new"))
    await follower.sync()
    assert (follower.version, follower.policy.replicas.max) == (1, 5)
    assert "version 1 stays in force" in (follower.error or "")
    empty_redis.hset(CURRENT, "number", 77)
    await follower.sync()
    assert "version 77 has no text" in (follower.error or "")
    empty_redis.hset(CURRENT, "number", 1)
    await follower.sync()
    assert follower.error is None


async def test_what_fails_unexpectedly_ends_nothing_and_is_said(
    make: Make, store: PolicyStore, empty_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.commit(draft(5))
    empty_redis.hset(f"{STEM}:1", "of_another_release", "x")
    follower = make()
    monkeypatch.setattr(policy_follower, "SYNC_INTERVAL_S", 0.01)
    waits = follower._store.wait
    failures = [ValueError("no wait")] * 3

    async def wait(timeout_s: float) -> None:
        if failures:
            raise failures.pop()
        await waits(timeout_s)

    monkeypatch.setattr(follower._store, "wait", wait)
    changed = asyncio.Event()
    follower.on_change(changed.set)
    await follower.start()
    assert observes(follower)
    assert "of_another_release" in (follower.error or "")
    empty_redis.hdel(f"{STEM}:1", "of_another_release")
    await asyncio.wait_for(changed.wait(), 5.0)
    assert follower.version == 1
    assert len(failures) < 3


async def test_a_change_is_followed_as_soon_as_it_is_made(
    make: Make, store: PolicyStore, path: Path
) -> None:
    follower = make()
    changed = asyncio.Event()
    await follower.start()
    follower.on_change(changed.set)
    await asyncio.sleep(0.1)
    await store.commit(draft(5))
    await asyncio.wait_for(changed.wait(), 5.0)
    assert follower.policy.replicas.max == 5
