"""Quotas counted in Redis for all fronts together, and locally while Redis is down.

Fail-open: when Redis does not answer or takes no more writes, requests are limited by
buckets of this process alone, so that with F fronts a tenant may use up to F times its limits until
Redis is back.

Keys, two for each tenant that has limits: ``braid:v1:{<tenant>}:quota`` (hash) and
``braid:v1:{<tenant>}:quota:leases`` (sorted set); ``lua/common.lua`` has their fields. They have no
TTL, so a full server that drops what has one drops decisions and never these.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cluster.clock import Clock
from cluster.domain.ids import TenantId
from cluster.redis_client import ServerScript
from cluster.tenancy.limits import (
    DEBT_MINUTES,
    FREE_SEQUENCES,
    QuotaAsk,
    QuotaLimits,
    QuotaSource,
    QuotaVerdict,
    wall_ms,
)
from cluster.tenancy.quota import MemoryQuota, make_verdict, unlimited

KEY_PREFIX = "braid:v1"
LEASE_S = 12.0
"""Places that were not renewed for so long are free."""
RENEW_S = 4.0
"""Time between two calls of ``renew`` by a front: two calls may fail before places lapse."""
ENTRY_S = 5.0
"""Time for which an entry's id is remembered: longer than the client tries again."""
_AWAY = (RedisError, OSError, asyncio.TimeoutError)
_MAX_OWED = 10_000
_PER_CALL = 500

_log = structlog.get_logger(__name__)


class RedisQuota:
    """Counts in Redis, with a local quota for its outages.

    The client is the caller's, with short timeouts; retries are harmless.
    """

    def __init__(
        self,
        client: Redis,
        local: MemoryQuota,
        clock: Clock,
        remember_s: float,
        breaker_reset_s: float,
        *,
        script_clock: Clock | None = None,
    ) -> None:
        """``remember_s``: longer than any request runs; what was charged for one whose places have
        lapsed can be corrected so long.

        ``breaker_reset_s``: how long Redis is left alone after a failure. ``script_clock``: whose
        wall clock the scripts go by; None is the server's own, one for all fronts.
        """
        self._local = local
        self._clock = clock
        self._remember_ms = int(remember_s * 1000)
        self._breaker_reset_s = breaker_reset_s
        self._script_clock = script_clock
        self._enter = ServerScript(client, _script("enter.lua"))
        self._reserve = ServerScript(client, _script("reserve.lua"))
        self._settle = ServerScript(client, _script("settle.lua"))
        self._renew = ServerScript(client, _script("renew.lua"))
        self._closed_until = 0.0  # monotonic; Redis is left alone before
        self._away = False
        self._held: dict[str, QuotaVerdict] = {}  # reserved in Redis and not settled
        self._owed: OrderedDict[str, tuple[QuotaVerdict, int]] = OrderedDict()
        self.fallbacks = 0
        """Requests and reservations counted locally because Redis was down."""

    @property
    def available(self) -> bool:
        """Report whether Redis answered when last asked."""
        return not self._away

    async def enter(self, tenant: TenantId, limits: QuotaLimits, entry_id: str) -> QuotaVerdict:
        """Charge one request; without such a limit Redis is not asked at all."""
        rpm = limits.requests_per_minute
        if rpm is None:
            return unlimited(tenant, limits, entry_id)
        if self._may_ask():
            try:
                refused, level, retry_ms = await self._enter(
                    keys=_keys(tenant),
                    args=[rpm, entry_id, int(ENTRY_S * 1000), self._remember_ms, self._now_ms()],
                )
            except _AWAY as error:
                self._open_breaker(error)
            else:
                self._close_breaker()
                return make_verdict(
                    tenant,
                    QuotaLimits(requests_per_minute=rpm),
                    entry_id,
                    QuotaSource.SHARED,
                    ask=QuotaAsk(0),
                    refused=int(refused),
                    requests_level=float(level),
                    tokens_level=0.0,
                    in_flight=0,
                    retry_ms=int(retry_ms),
                )
        self.fallbacks += 1
        return self._local.enter_now(tenant, limits, entry_id)

    async def reserve(
        self, tenant: TenantId, limits: QuotaLimits, reservation_id: str, ask: QuotaAsk
    ) -> QuotaVerdict:
        """Reserve places and tokens; without limits Redis is not asked at all."""
        if limits.unlimited:
            return unlimited(tenant, limits, reservation_id)
        if self._owed and self._away:
            await self._pay()  # what ended meanwhile must not stand in the way
        asked = self._may_ask()
        if asked:
            try:
                return await self._reserve_shared(tenant, limits, reservation_id, ask)
            except _AWAY as error:
                self._open_breaker(error)
            except asyncio.CancelledError:
                sent = QuotaVerdict(tenant, reservation_id, limits, True, QuotaSource.SHARED)
                self._owe(sent, 0)
                raise
        self.fallbacks += 1
        verdict = self._local.reserve_now(tenant, limits, reservation_id, ask, unsure=asked)
        if asked and not verdict.allowed:
            self._owe(verdict, 0)  # Redis may have allowed it, and its answer was lost
        return verdict

    async def settle(self, verdict: QuotaVerdict, tokens: int) -> None:
        """Free places and charge tokens. While Redis is down settlements are kept for later."""
        if not verdict.allowed or verdict.source is QuotaSource.UNLIMITED:
            return
        if verdict.source is QuotaSource.LOCAL:
            self._local.settle_now(verdict, tokens)
            if not verdict.unsure:
                return
        self._held.pop(verdict.reservation_id, None)
        self._owe(verdict, tokens)
        await self._pay()

    async def renew(self) -> None:
        """Renew the places of running requests, and send the settlements that were kept.

        Call it every ``RENEW_S``.
        """
        await self._pay()
        held = [*self._held.values()]
        for first in range(0, len(held), _PER_CALL):
            if not self._may_ask():
                return
            await self._renew_some(held[first : first + _PER_CALL])

    async def _reserve_shared(
        self, tenant: TenantId, limits: QuotaLimits, reservation_id: str, ask: QuotaAsk
    ) -> QuotaVerdict:
        refused, requests, tokens, in_flight, retry_ms = await self._reserve(
            keys=_keys(tenant),
            args=[
                limits.requests_per_minute or 0,
                limits.tokens_per_minute or 0,
                limits.max_concurrent or 0,
                ask.places,
                ask.expected,
                ask.exposure,
                reservation_id,
                int(LEASE_S * 1000),
                self._remember_ms,
                DEBT_MINUTES,
                FREE_SEQUENCES,
                self._now_ms(),
            ],
        )
        self._close_breaker()
        verdict = make_verdict(
            tenant,
            limits,
            reservation_id,
            QuotaSource.SHARED,
            ask=ask,
            refused=int(refused),
            requests_level=float(requests),
            tokens_level=float(tokens),
            in_flight=int(in_flight),
            retry_ms=int(retry_ms),
        )
        if verdict.allowed:
            self._held[reservation_id] = verdict
        return verdict

    async def _renew_some(self, held: Iterable[QuotaVerdict]) -> None:
        by_tenant: dict[TenantId, list[QuotaVerdict]] = {}
        for verdict in held:
            by_tenant.setdefault(verdict.tenant, []).append(verdict)
        keys: list[str] = []
        args: list[Any] = [int(LEASE_S * 1000), self._remember_ms, self._now_ms()]
        for tenant, verdicts in by_tenant.items():
            keys += _keys(tenant)
            args += [verdicts[-1].limits.max_concurrent or 0, len(verdicts)]
            for verdict in verdicts:
                args += [verdict.reservation_id, verdict.ask.places, verdict.ask.exposure]
        try:
            revived = await self._renew(keys=keys, args=args)
        except _AWAY as error:
            self._open_breaker(error)
            return
        self._close_breaker()
        settled = {item.decode() for item in revived} - self._held.keys() - self._owed.keys()
        for verdict in (item for items in by_tenant.values() for item in items):
            if verdict.reservation_id in settled:
                self._owe(verdict, 0)  # it ended while it was being renewed
        if settled:
            await self._pay()

    def _owe(self, verdict: QuotaVerdict, tokens: int) -> None:
        self._owed[verdict.reservation_id] = (verdict, tokens)
        while len(self._owed) > _MAX_OWED:
            self._owed.popitem(last=False)  # its places lapse

    async def _pay(self) -> None:
        """Settle all that is owed to Redis, in as few calls as that takes."""
        while self._owed and self._may_ask():
            paid = [self._owed.popitem() for _ in range(min(_PER_CALL, len(self._owed)))]
            keys: list[str] = []
            args: list[Any] = [self._now_ms()]
            for reservation_id, (verdict, tokens) in paid:
                keys += _keys(verdict.tenant)
                args += [verdict.limits.tokens_per_minute or 0, tokens, reservation_id]
            done = False
            try:
                await self._settle(keys=keys, args=args)
                done = True
            except _AWAY as error:
                self._open_breaker(error)
                return
            finally:
                if not done:
                    for _, (verdict, tokens) in paid:
                        self._owe(verdict, tokens)
            self._close_breaker()

    def _may_ask(self) -> bool:
        """Report whether Redis is worth asking; while it is down one call at a time finds out."""
        now = self._clock.monotonic()
        if now < self._closed_until:
            return False
        if self._away:
            self._closed_until = now + self._breaker_reset_s
        return True

    def _open_breaker(self, error: BaseException) -> None:
        self._closed_until = self._clock.monotonic() + self._breaker_reset_s
        if not self._away:
            _log.warning("quota_store_away", error=str(error), counted="by this front alone")
        self._away = True

    def _close_breaker(self) -> None:
        if self._away:
            _log.info("quota_store_back", owed=len(self._owed))
        self._away = False
        self._closed_until = 0.0

    def _now_ms(self) -> int:
        return -1 if self._script_clock is None else wall_ms(self._script_clock)


def _keys(tenant: TenantId) -> list[str]:
    stem = f"{KEY_PREFIX}:{{{tenant}}}:quota"
    return [stem, f"{stem}:leases"]


def _script(name: str) -> str:
    folder = files("cluster.tenancy").joinpath("lua")
    parts = [folder.joinpath(part).read_text(encoding="utf-8") for part in ("common.lua", name)]
    return "".join(parts)
