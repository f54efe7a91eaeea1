"""Requirements on a Redis server, judged by its own ``INFO``."""

from collections.abc import Mapping
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cluster.errors import ConfigError
from cluster.redis_client import CLUSTER_REFUSED

_log = structlog.get_logger(__name__)

SENTINEL_REFUSED = (
    "this server is a Redis Sentinel, which holds no data; use an address that leads to the "
    "primary, such as a proxy's or a service's name"
)
EVICTS_ALL = (
    "maxmemory-policy is {policy}, so a full server may drop the adapters' registry and tenants' "
    "quotas; set it to volatile-ttl, which drops decisions alone"
)


def refusal(info: Mapping[str, Any]) -> str | None:
    """Return why a server cannot be used, or None if it can."""
    if info.get("redis_mode") == "sentinel":
        return SENTINEL_REFUSED
    if str(info.get("cluster_enabled", 0)) == "1" or info.get("redis_mode") == "cluster":
        return CLUSTER_REFUSED
    return None


def eviction_risk(info: Mapping[str, Any]) -> str | None:
    """Return what a full server would drop besides decisions, or None if nothing."""
    policy = str(info.get("maxmemory_policy", ""))
    return EVICTS_ALL.format(policy=policy) if policy.startswith("allkeys-") else None


async def check_server(client: Redis) -> None:
    """Refuse a server that cannot be used, and warn of one that drops too much.

    A server that does not answer passes: it is checked again later.

    Raises:
        ConfigError: it is a node of a Redis Cluster, or a Sentinel.
    """
    try:
        info = await client.info()
    except (RedisError, OSError):
        return
    reason = refusal(info)
    if reason is not None:
        raise ConfigError(f"redis_url: {reason}")
    risk = eviction_risk(info)
    if risk is not None:
        _log.warning("redis.evicts_all", reason=risk)
