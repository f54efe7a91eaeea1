"""Tells how many replicas a local cluster is to have at least: the policy in force says it."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from cluster.config import AppConfig
from cluster.errors import ConfigError, StoreUnavailable
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.policy_load import load_policy, parse_policy
from cluster.placement.policy.policy_store import PolicyStore
from cluster.placement.policy.policy_versions import PolicyVersion
from cluster.placement.scaling.schedule import bounds_at
from cluster.redis_client import redis_client
from deployments.local.local_state import StateDir

REDIS_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class AskedCount:
    """A number of replicas, and the kept version of the policy that asks for it."""

    replicas: int
    version: int = 0  # 0: none is kept, and the policy file or ``--replicas`` says it


def first_count(config: AppConfig) -> int:
    """Return the number of replicas that Serve starts with.

    Raises:
        ConfigError: the policy file is wrong.
    """
    defaults = ClusterPolicy.fixed(config.replica.replicas)
    policy = load_policy(config.controller.policy_file, defaults)
    return max(1, policy.replicas.min)  # a cluster that may be empty starts with one


def asked_count(config: AppConfig, state: StateDir, first: int, wall: datetime) -> AskedCount:
    """Return the count that a cluster must reach to be up.

    Its Redis may have kept a policy from earlier runs. One that is kept and cannot be read is not
    in force.

    Args:
        config: of the cluster.
        state: its folder, which names its Redis.
        first: replicas that Serve started with.
        wall: the present, aware; the schedule is looked at then.
    """
    try:
        kept = asyncio.run(_kept(state.redis_url.read_text().strip()))
    except (OSError, StoreUnavailable):
        kept = None
    if kept is None:
        return AskedCount(first)
    try:
        policy = parse_policy(
            kept.text.encode(), source="", defaults=ClusterPolicy.fixed(config.replica.replicas)
        ).replicas
    except ConfigError:
        return AskedCount(first)
    least = first if policy.mode == "observe" else bounds_at(policy, wall)[0]
    return AskedCount(max(1, least), kept.number)


async def _kept(url: str) -> PolicyVersion | None:
    store = PolicyStore(redis_client(url, timeout_s=REDIS_TIMEOUT_S, name="braid-up"))
    try:
        return (await store.read()).version
    finally:
        await store.close()
