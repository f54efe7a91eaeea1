"""Quota at the door: reserve before a request starts, settle when it has ended."""

import asyncio
from collections.abc import Mapping

from redis.asyncio import Redis

from cluster.clock import Clock
from cluster.config import AppConfig
from cluster.errors import QuotaExceeded
from cluster.redis_client import redis_client
from cluster.tenancy.limits import QuotaVerdict
from cluster.tenancy.quota import MemoryQuota, Quota
from cluster.tenancy.redis_quota import RedisQuota
from cluster.tenancy.tenants import Tenant
from deployments.parts import Secrets


class RefusedByQuota(QuotaExceeded):
    """A refusal with the headers that tell when to come back."""

    def __init__(self, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.headers = dict(headers)


class Admission:
    """One front's way to the shared quota."""

    def __init__(self, quota: Quota, client: Redis | None = None) -> None:
        self._quota = quota
        self._client = client
        self._settling: set[asyncio.Task[None]] = set()

    @classmethod
    def build(cls, config: AppConfig, secrets: Secrets, clock: Clock) -> "Admission":
        """Quota in Redis, counted by this process while Redis is away."""
        lease_s = config.front.request_timeout_s + 60
        client = redis_client(
            secrets.redis_url, timeout_s=config.decisions.redis_timeout_s, name="braid-quota"
        )
        quota = RedisQuota(
            client,
            MemoryQuota(clock, lease_s),
            clock,
            lease_s,
            config.decisions.breaker_reset_s,
        )
        return cls(quota, client)

    async def admit(self, tenant: Tenant, reservation_id: str, tokens: int) -> QuotaVerdict:
        """Charge one request that may use up to ``tokens``.

        Raises:
            RefusedByQuota: over a limit; nothing was charged.
        """
        verdict = await self._quota.reserve(tenant.id, tenant.limits, reservation_id, tokens)
        try:
            verdict.raise_if_refused()
        except QuotaExceeded as error:
            raise RefusedByQuota(error.message, verdict.headers()) from error
        return verdict

    def settle(self, verdict: QuotaVerdict, tokens: int) -> None:
        """Book what was really used, without making anybody wait."""
        if verdict.limits.unlimited:
            return
        task = asyncio.create_task(self._quota.settle(verdict, tokens))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def close(self) -> None:
        """Wait for what is being settled, then close the connection."""
        if self._settling:
            await asyncio.wait(self._settling, timeout=2.0)
        if self._client is not None:
            await self._client.aclose()
