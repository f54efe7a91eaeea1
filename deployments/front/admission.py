"""Quota at the door: reserve before a request starts, settle when it has ended."""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import replace

from redis.asyncio import Redis

from cluster.clock import Clock
from cluster.config import AppConfig
from cluster.errors import QuotaExceeded, RequestError
from cluster.redis_client import redis_client
from cluster.tenancy.limits import QuotaLimits, QuotaVerdict
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

    async def enter(self, tenant: Tenant) -> None:
        """Charge one unit of the tenant's requests per minute.

        Raises:
            RefusedByQuota: there is none left.
        """
        rate = QuotaLimits(requests_per_minute=tenant.limits.requests_per_minute)
        verdict = await self._reserve(tenant, rate, uuid.uuid4().hex, 0)
        self.settle(verdict, tokens=0)

    async def admit(
        self,
        tenant: Tenant,
        reservation_id: str,
        *,
        sequences: int,
        prompt_tokens: int,
        max_new_tokens: int,
        expected_new_tokens: int | None = None,
    ) -> QuotaVerdict:
        """Take places for the sequences of a request, and the tokens that it may use.

        Raises:
            RefusedByQuota: over a limit; nothing was taken.
            RequestError: more sequences than the tenant may ever have.
        """
        most = tenant.limits.max_concurrent
        if most is not None and sequences > most:
            raise RequestError(
                f"n: {sequences} sequences; this tenant may have {most} at once", param="n"
            )
        limits = replace(tenant.limits, requests_per_minute=None)
        new = max_new_tokens if expected_new_tokens is None else expected_new_tokens
        return await self._reserve(tenant, limits, reservation_id, prompt_tokens + new)

    async def _reserve(
        self, tenant: Tenant, limits: QuotaLimits, reservation_id: str, tokens: int
    ) -> QuotaVerdict:
        verdict = await self._quota.reserve(tenant.id, limits, reservation_id, tokens)
        try:
            verdict.raise_if_refused()
        except QuotaExceeded as error:
            raise RefusedByQuota(error.message, verdict.headers()) from error
        return verdict

    def settle(self, verdict: QuotaVerdict, *, tokens: int) -> None:
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
