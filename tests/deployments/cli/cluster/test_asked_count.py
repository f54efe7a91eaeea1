"""The count that `braid up` waits for is that of the policy in force, which Redis may have kept."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cluster.config import AppConfig
from cluster.placement.policy.policy_store import PolicyStore
from cluster.placement.policy.policy_versions import PolicyDraft
from cluster.redis_client import redis_client
from deployments.cli.cluster.asked_count import AskedCount, asked_count, first_count
from deployments.local.local_state import StateDir

pytestmark = [pytest.mark.redis]

MONDAY = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)


@pytest.fixture
def url(redis_url: str, state: StateDir) -> str:
    """The address of an empty server, which the state folder names."""
    state.redis_url.write_text(redis_url)
    return redis_url


def keep(url: str, text: str) -> None:
    async def commit() -> None:
        store = PolicyStore(redis_client(url, timeout_s=1.0, name="controller"))
        await store.commit(PolicyDraft(text, "root", "before"))
        await store.close()

    asyncio.run(commit())


def config(replicas: int = 3, policy: Path | None = None) -> AppConfig:
    given: dict[str, Any] = {"replica": {"replicas": replicas}}
    if policy is not None:
        given["controller"] = {"policy_file": policy}
    return AppConfig.model_validate(given)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("replicas: {min: 1, max: 1}", 1),
        ("replicas: {min: 5, max: 6}", 5),
        ("replicas: {min: 0, max: 4, zero_after: 60}", 1),
        ("replicas: {min: 1, max: 4, schedule: [{days: mon, min: 2}, {days: tue, min: 4}]}", 2),
        ("replicas: {min: 1, max: 4, mode: observe}", 3),
        ("replicas: {min: 2, max: 4, mode: off, schedule: [{days: mon, min: 4}]}", 4),
    ],
)
def test_a_kept_policy_says_how_many(url: str, state: StateDir, text: str, count: int) -> None:
    keep(url, text)
    assert asked_count(config(), state, 3, MONDAY) == AskedCount(count, version=1)


@pytest.mark.parametrize("text", ["replicas: {max: 1}", "pins: []"])
def test_a_kept_policy_that_cannot_be_read_is_not_in_force(
    url: str, state: StateDir, text: str
) -> None:
    keep(url, text)
    assert asked_count(config(), state, 3, MONDAY) == AskedCount(3)


def test_without_a_kept_policy_the_option_or_the_file_says_it(
    url: str, state: StateDir, tmp_path: Path
) -> None:
    assert first_count(config()) == 3
    assert asked_count(config(), state, 3, MONDAY) == AskedCount(3)
    file = tmp_path / "policy.yaml"
    file.write_text("replicas: {min: 2, max: 4}")
    assert first_count(config(policy=file)) == 2
    assert asked_count(config(policy=file), state, 2, MONDAY) == AskedCount(2)


def test_a_server_that_is_away_keeps_nobody(state: StateDir) -> None:
    assert asked_count(config(), state, 3, MONDAY) == AskedCount(3), "no server is known yet"
    state.redis_url.write_text("redis://127.0.0.1:1/0")
    assert asked_count(config(), state, 3, MONDAY) == AskedCount(3)
