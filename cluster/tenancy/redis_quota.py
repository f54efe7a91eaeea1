"""Quotas counted in Redis for all fronts together, and locally while Redis is away.

Fail-open: a tenant's requests go on when Redis does not answer, limited by buckets of this process
alone, so that with F fronts a tenant may use up to F times its limits until Redis is back.

Keys, all under the tenant's hash tag so that a script touches one cluster slot, all with a TTL:
``braid:v1:{<tenant>}:quota:buckets`` (hash), ``...:quota:inflight`` (sorted set),
``...:quota:reservation:<id>`` (hash).
"""

import asyncio
from collections import OrderedDict
from importlib.resources import files

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cluster.clock import Clock
from cluster.domain.ids import TenantId
from cluster.tenancy.limits import QuotaLimits, QuotaSource, QuotaVerdict, wall_ms
from cluster.tenancy.quota import MemoryQuota, make_verdict, unlimited

KEY_PREFIX = "braid:v1"
_AWAY = (RedisError, OSError, asyncio.TimeoutError)
_MAX_OWED = 10_000
_OWED_PER_CALL = 16

_log = structlog.get_logger(__name__)


class RedisQuota:
    """See the module. The client is the caller's, with short timeouts; retries are harmless."""

    def __init__(
        self,
        client: Redis,
        local: MemoryQuota,
        clock: Clock,
        lease_s: float,
        breaker_reset_s: float,
        *,
        script_clock: Clock | None = None,
    ) -> None:
        """``lease_s``: a request that was never settled frees its place after this long.

        ``breaker_reset_s``: how long Redis is left alone after a failure. ``script_clock``: whose
        wall clock the scripts go by; None is the server's own, one for all fronts.
        """
        self._local = local
        self._clock = clock
        self._lease_ms = int(lease_s * 1000)
        self._breaker_reset_s = breaker_reset_s
        self._script_clock = script_clock
        self._reserve = client.register_script(_script("reserve.lua"))
        self._settle = client.register_script(_script("settle.lua"))
        self._closed_until = 0.0  # monotonic; Redis is left alone before
        self._away = False
        self._owed: OrderedDict[str, tuple[QuotaVerdict, int]] = OrderedDict()
        self.fallbacks = 0
        """Reservations counted locally because Redis was away."""

    @property
    def available(self) -> bool:
        """Whether Redis answered when last asked."""
        return not self._away

    async def reserve(
        self, tenant: TenantId, limits: QuotaLimits, reservation_id: str, tokens: int
    ) -> QuotaVerdict:
        """See ``Quota``; without limits Redis is not asked at all."""
        if limits.unlimited:
            return unlimited(tenant, limits, reservation_id)
        asked = self._may_ask()
        if asked:
            try:
                return await self._reserve_shared(tenant, limits, reservation_id, tokens)
            except _AWAY as error:
                self._open_breaker(error)
        self.fallbacks += 1
        return self._local.reserve_now(tenant, limits, reservation_id, tokens, unsure=asked)

    async def settle(self, verdict: QuotaVerdict, tokens: int) -> None:
        """See ``Quota``. While Redis is away settlements are kept and made good later."""
        if not verdict.allowed or verdict.source is QuotaSource.UNLIMITED:
            return
        if verdict.source is QuotaSource.LOCAL:
            self._local.settle_now(verdict, tokens)
            if not verdict.unsure:
                return
        self._owe(verdict, tokens)
        await self._pay()

    async def _reserve_shared(
        self, tenant: TenantId, limits: QuotaLimits, reservation_id: str, tokens: int
    ) -> QuotaVerdict:
        reply = await self._reserve(
            keys=_keys(tenant, reservation_id),
            args=[
                limits.requests_per_minute or 0,
                limits.tokens_per_minute or 0,
                limits.max_concurrent or 0,
                tokens,
                reservation_id,
                self._lease_ms,
                self._now_ms(),
            ],
        )
        self._close_breaker()
        refused, requests, tokens_left, in_flight, retry_ms = reply
        await self._pay()
        return make_verdict(
            tenant,
            limits,
            reservation_id,
            QuotaSource.SHARED,
            refused=int(refused),
            requests_level=float(requests),
            tokens_level=float(tokens_left),
            in_flight=int(in_flight),
            retry_ms=int(retry_ms),
        )

    def _owe(self, verdict: QuotaVerdict, tokens: int) -> None:
        self._owed[verdict.reservation_id] = (verdict, tokens)
        while len(self._owed) > _MAX_OWED:
            self._owed.popitem(last=False)  # its place in flight expires with its lease

    async def _pay(self) -> None:
        """Settle what is owed to Redis, a few at a time."""
        for _ in range(_OWED_PER_CALL):
            if not self._owed or not self._may_ask():
                return
            reservation_id, (verdict, tokens) = self._owed.popitem(last=False)
            try:
                await self._settle(
                    keys=_keys(verdict.tenant, reservation_id),
                    args=[
                        verdict.limits.tokens_per_minute or 0,
                        tokens,
                        reservation_id,
                        self._now_ms(),
                    ],
                )
            except _AWAY as error:
                self._owe(verdict, tokens)
                self._open_breaker(error)
                return
            except asyncio.CancelledError:
                self._owe(verdict, tokens)
                raise
            self._close_breaker()

    def _may_ask(self) -> bool:
        """Whether Redis is worth asking; while it is away one call at a time finds out."""
        now = self._clock.monotonic()
        if now < self._closed_until:
            return False
        if self._away:
            self._closed_until = now + self._breaker_reset_s
        return True

    def _open_breaker(self, error: BaseException) -> None:
        self._closed_until = self._clock.monotonic() + self._breaker_reset_s
        if not self._away:
            _log.warning("quota_store_away", error=str(error))
        self._away = True

    def _close_breaker(self) -> None:
        if self._away:
            _log.info("quota_store_back", owed=len(self._owed))
        self._away = False
        self._closed_until = 0.0

    def _now_ms(self) -> int:
        return -1 if self._script_clock is None else wall_ms(self._script_clock)


def _script(name: str) -> str:
    return files("cluster.tenancy").joinpath("lua", name).read_text(encoding="utf-8")


def _keys(tenant: TenantId, reservation_id: str) -> list[str]:
    stem = f"{KEY_PREFIX}:{{{tenant}}}:quota"
    return [f"{stem}:buckets", f"{stem}:inflight", f"{stem}:reservation:{reservation_id}"]
