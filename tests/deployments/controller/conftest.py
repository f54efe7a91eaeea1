"""A real server, and what follows the policy in it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.policy_store import PolicyStore
from cluster.redis_client import redis_client
from deployments.controller import policy_follower
from deployments.controller.policy_follower import PolicyFollower
from tests.support.policy_follower_rig import Make


@pytest.fixture
async def make(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """``make(path=None, at=redis_url)``: a controller's follower, with short pauses."""
    monkeypatch.setattr(policy_follower, "SETTLE_S", 0.01)
    made: list[PolicyFollower] = []

    def build(path: Path | None = None, at: str = redis_url) -> PolicyFollower:
        store = PolicyStore(redis_client(at, timeout_s=0.5, name="policy"))
        made.append(PolicyFollower(store, path, ClusterPolicy.fixed(3)))
        return made[-1]

    yield build
    for follower in made:
        await follower.close()


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[PolicyStore]:
    """An operator's."""
    made = PolicyStore(redis_client(redis_url, timeout_s=1.0, name="operator"))
    yield made
    await made.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "policy.yaml"
    found.write_text("replicas: {max: 4}")
    return found
