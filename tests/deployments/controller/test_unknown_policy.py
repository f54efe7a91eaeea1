"""A controller that does not know the policy in force, or cannot read it, changes nothing."""

from pathlib import Path

import pytest
import redis

from cluster.placement.policy.policy_store import STEM, PolicyStore
from cluster.placement.policy.policy_versions import FILE, PolicyDraft
from tests.support.policy_follower_rig import NOBODY, Make, draft, edit, observes

pytestmark = [pytest.mark.redis]

UNREADABLE = "replicas: {of_another_release: 1}"


async def test_a_new_controller_goes_by_the_store_where_its_file_is_broken(
    make: Make, store: PolicyStore, path: Path
) -> None:
    await make(path).sync()
    edit(path, "adapters: 3")
    again = make(path)
    await again.sync()
    assert (again.version, again.policy.replicas.max) == (1, 4)
    assert "adapters" in (again.error or "")
    assert (await store.read()).file == str(path)
    edit(path, "replicas: {max: 5}")
    await again.sync()
    assert (again.version, again.policy.replicas.max, again.error) == (2, 5, None)


async def test_with_a_broken_file_and_no_version_the_cluster_is_observed(
    make: Make, path: Path
) -> None:
    edit(path, "adapters: 3")
    follower = make(path)
    await follower.sync()
    assert observes(follower)
    assert "adapters" in (follower.error or "")
    assert "nothing is changed" in (follower.error or "")
    edit(path, "replicas: {max: 4}")
    await follower.sync()
    assert (follower.version, follower.policy.replicas.max) == (1, 4)
    assert (follower.policy.replicas.mode, follower.error) == ("on", None)


async def test_until_redis_has_answered_the_cluster_is_observed(make: Make, path: Path) -> None:
    follower = make(path, at=NOBODY)
    assert observes(follower)
    await follower.sync()
    assert observes(follower)
    assert "cannot be reached" in (follower.error or "")
    assert "nothing is changed" in (follower.error or "")


@pytest.mark.parametrize(
    ("texts", "version"),
    [
        (["replicas: {max: 4}", "replicas: {max: 5}", UNREADABLE], 2),
        (["replicas: {max: 4}", UNREADABLE, f"{UNREADABLE} "], 1),
    ],
)
async def test_a_new_release_goes_by_the_last_version_that_it_can_read(
    make: Make, store: PolicyStore, texts: list[str], version: int
) -> None:
    for text in texts:
        await store.commit(PolicyDraft(text, "ann", "new"))
    follower = make()
    await follower.sync()
    assert (follower.version, follower.policy.replicas.max) == (version, 3 + version)
    assert "of_another_release" in (follower.error or "")
    assert f"version {version} stays in force" in (follower.error or "")
    await follower.sync()
    assert follower.version == version
    await store.commit(draft(9))
    await follower.sync()
    assert (follower.version, follower.policy.replicas.max, follower.error) == (4, 9, None)


async def test_a_new_release_takes_up_no_earlier_override(
    make: Make, store: PolicyStore, path: Path
) -> None:
    """It can read the file's version 1, not 3, and override 2, not 4."""
    await store.commit(PolicyDraft("replicas: {max: 4}", FILE, "file", FILE), file=str(path))
    await store.commit(draft(11), override_s=60)
    await store.commit(PolicyDraft(UNREADABLE, FILE, "file", FILE), file=str(path))
    await store.commit(PolicyDraft(f"{UNREADABLE} ", "ann", "rush"), override_s=60)
    edit(path, UNREADABLE)
    follower = make(path)
    await follower.sync()
    assert (follower.version, follower.policy.replicas.max) == (1, 4)


async def test_of_an_override_that_cannot_be_read_the_file_comes_first(
    make: Make, store: PolicyStore, path: Path
) -> None:
    await store.commit(draft(11))
    await make(path).sync()
    await store.commit(PolicyDraft(UNREADABLE, "ann", "rush"), override_s=60)
    follower = make(path)
    await follower.sync()
    assert (follower.version, follower.policy.replicas.max) == (2, 4)


async def test_where_no_version_can_be_read_the_cluster_is_observed(
    make: Make, store: PolicyStore
) -> None:
    await store.commit(PolicyDraft(UNREADABLE, "ann", "new"))
    await store.commit(PolicyDraft(f"{UNREADABLE} ", "ann", "new"))
    follower = make()
    for _ in range(2):
        await follower.sync()
        assert observes(follower)
        assert "no earlier version can be read" in (follower.error or "")
    await store.commit(draft(5))
    await follower.sync()
    assert (follower.policy.replicas.mode, follower.policy.replicas.max) == ("on", 5)


async def test_where_the_text_in_force_is_gone_a_new_controller_only_observes(
    make: Make, store: PolicyStore, empty_redis: redis.Redis
) -> None:
    await store.commit(draft(5))
    empty_redis.delete(f"{STEM}:1")
    follower = make()
    await follower.sync()
    assert observes(follower)
    assert "version 1 has no text" in (follower.error or "")
    await store.commit(draft(6))
    await follower.sync()
    assert (follower.version, follower.policy.replicas.max, follower.error) == (2, 6, None)
