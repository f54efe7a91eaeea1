"""Charges quota: a request as it comes, a reservation before it runs, the rest when it ends."""

import asyncio
import dataclasses
import uuid

import structlog
from redis.asyncio import Redis

from cluster.clock import Clock
from cluster.config import AppConfig
from cluster.domain.ids import TenantId
from cluster.errors import QuotaExceeded, RequestError
from cluster.expected_length import FIRST_GUESS
from cluster.redis_client import redis_client
from cluster.tasks import Tasks
from cluster.tenancy.limits import BucketState, QuotaAsk, QuotaSource, QuotaVerdict
from cluster.tenancy.quota import MemoryQuota, Quota, unlimited
from cluster.tenancy.redis_quota import RENEW_S, RedisQuota
from cluster.tenancy.tenants import Tenant
from deployments.cluster_secrets import Secrets
from deployments.front.http.problem import RefusedByQuota

log = structlog.get_logger(__name__)


class Admission:
    """Asks the shared quota for one front."""

    def __init__(self, quota: Quota, client: Redis | None = None) -> None:
        self._quota = quota
        self._client = client
        self._settling = Tasks()
        self._renewing: asyncio.Task[None] | None = None
        self._entered: dict[TenantId, BucketState] = {}  # of requests, as last heard

    @classmethod
    def build(cls, config: AppConfig, secrets: Secrets, clock: Clock) -> "Admission":
        """Build on a running loop: quota in Redis, counted by this process while Redis is down."""
        longest_s = config.front.request_timeout_s + 60
        client = redis_client(
            secrets.redis_url, timeout_s=config.decisions.redis_timeout_s, name="braid-quota"
        )
        quota = RedisQuota(
            client,
            MemoryQuota(clock, longest_s),
            clock,
            longest_s,
            config.decisions.breaker_reset_s,
        )
        admission = cls(quota, client)
        admission._renewing = asyncio.create_task(admission._renew())
        return admission

    async def enter(self, tenant: Tenant) -> None:
        """Charge one request, before anything of it is looked at.

        Raises:
            RefusedByQuota: over ``requests_per_minute``; nothing was charged.
        """
        if tenant.limits.requests_per_minute is None:
            return
        verdict = await self._quota.enter(tenant.id, tenant.limits, uuid.uuid4().hex)
        if verdict.requests is not None:
            self._entered[tenant.id] = verdict.requests
        _raise_if_refused(verdict)

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
        """Take a place for each sequence, and reserve tokens.

        Args:
            tenant: whose request it is.
            reservation_id: new for each request.
            sequences: number of sequences.
            prompt_tokens: of all prompts, each counted once.
            max_new_tokens: most that all sequences together may generate.
            expected_new_tokens: what they will probably generate; None is a first guess.

        Raises:
            RefusedByQuota: over a limit; nothing was taken.
            RequestError: the tenant may never run so many sequences at once.
        """
        limits = tenant.limits
        if limits.max_concurrent is not None and sequences > limits.max_concurrent:
            raise RequestError(
                f"n: the request makes {sequences} sequences, and tenant '{tenant.id}' may run "
                f"{limits.max_concurrent} at once; send fewer prompts or a smaller n",
                param="n",
            )
        if limits.tokens_per_minute is None and limits.max_concurrent is None:
            verdict = unlimited(tenant.id, limits, reservation_id)
            if limits.requests_per_minute is None:
                return verdict
            return dataclasses.replace(verdict, requests=self._entered.get(tenant.id))
        if expected_new_tokens is None:
            expected_new_tokens = sequences * FIRST_GUESS
        ask = QuotaAsk(
            places=sequences,
            expected=prompt_tokens + min(expected_new_tokens, max_new_tokens),
            at_most=prompt_tokens + max_new_tokens,
        )
        verdict = await self._quota.reserve(tenant.id, limits, reservation_id, ask)
        _raise_if_refused(verdict)
        return verdict

    def settle(self, verdict: QuotaVerdict, *, tokens: int) -> None:
        """Free the places and book what was really used, in the background.

        ``tokens`` is 0 where nothing ran.
        """
        if not verdict.allowed or verdict.source is QuotaSource.UNLIMITED:
            return
        self._settling.start(self._quota.settle(verdict, tokens))

    async def close(self) -> None:
        """Wait for what is being settled, then close the connection."""
        if self._renewing is not None:
            self._renewing.cancel()
        await self._settling.wait(2.0)
        if self._client is not None:
            await self._client.aclose()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._quota.renew()
            except Exception as error:  # places lapse where this loop ends
                log.error("quota.renewal_failed", exc_info=error)


def _raise_if_refused(verdict: QuotaVerdict) -> None:
    try:
        verdict.raise_if_refused()
    except QuotaExceeded as error:
        raise RefusedByQuota(error.message, verdict.headers()) from error
