"""Requests per minute, tokens per minute and requests at once, per tenant.

A reservation takes one request and the tokens a request may use at most; ``settle`` books what it
really used, down into debt when that was more. A request larger than the whole token bucket is
admitted when the bucket is full and empties it. A refused request is charged nothing.

``reservation_id`` makes both calls safe to repeat. It must be the server's own and new for each
request: a client that chose it could make all its requests one.
"""

import heapq
from dataclasses import dataclass, field
from typing import Protocol

from cluster.clock import Clock
from cluster.domain.ids import TenantId
from cluster.errors import IntegrityError
from cluster.tenancy.limits import (
    SLACK,
    QuotaLimits,
    QuotaSource,
    QuotaVerdict,
    bucket_state,
    ms_until,
    refilled,
    wall_ms,
)

CONCURRENT_RETRY_MS = 1000
"""When a place in flight may be free again is not known; callers are told this."""
REFUSALS = (None, "concurrent requests", "requests", "tokens")


class Quota(Protocol):
    """One contract over memory and Redis."""

    async def reserve(
        self, tenant: TenantId, limits: QuotaLimits, reservation_id: str, tokens: int
    ) -> QuotaVerdict:
        """Charge one request and ``tokens``, or refuse and charge nothing."""
        ...

    async def settle(self, verdict: QuotaVerdict, tokens: int) -> None:
        """End an allowed reservation with the tokens really used; again is harmless."""
        ...


def unlimited(tenant: TenantId, limits: QuotaLimits, reservation_id: str) -> QuotaVerdict:
    """The verdict where nothing is counted."""
    return QuotaVerdict(tenant, reservation_id, limits, True, QuotaSource.UNLIMITED)


def make_verdict(
    tenant: TenantId,
    limits: QuotaLimits,
    reservation_id: str,
    source: QuotaSource,
    *,
    refused: int,
    requests_level: float,
    tokens_level: float,
    in_flight: int,
    retry_ms: int,
    unsure: bool = False,
) -> QuotaVerdict:
    """A verdict from bucket levels; ``refused`` indexes ``REFUSALS``."""
    rpm, tpm = limits.requests_per_minute, limits.tokens_per_minute
    return QuotaVerdict(
        tenant=tenant,
        reservation_id=reservation_id,
        limits=limits,
        allowed=refused == 0,
        source=source,
        refused=REFUSALS[refused],
        requests=None if rpm is None else bucket_state(requests_level, rpm),
        tokens=None if tpm is None else bucket_state(tokens_level, tpm),
        in_flight=in_flight,
        retry_after_s=retry_ms / 1000,
        unsure=unsure,
    )


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float  # wall clock, milliseconds

    def refill(self, now: float, per_minute: int) -> float:
        self.level = refilled(self.level, now - self.at, per_minute)
        self.at = max(self.at, now)
        return self.level


@dataclass(slots=True)
class _Reservation:
    verdict: QuotaVerdict
    charged: int
    open: bool = True


@dataclass(slots=True)
class _Account:
    requests: _Bucket | None = None
    tokens: _Bucket | None = None
    in_flight: dict[str, float] = field(default_factory=dict)  # reservation -> expiry, ms
    reservations: dict[str, _Reservation] = field(default_factory=dict)
    expiries: list[tuple[float, str]] = field(default_factory=list)  # heap over reservations


class MemoryQuota:
    """Counts in this process; the same arithmetic as the Lua scripts."""

    def __init__(self, clock: Clock, lease_s: float) -> None:
        """``lease_s``: a request that was never settled frees its place after this long."""
        self._clock = clock
        self._lease_ms = lease_s * 1000
        self._accounts: dict[TenantId, _Account] = {}

    async def reserve(
        self, tenant: TenantId, limits: QuotaLimits, reservation_id: str, tokens: int
    ) -> QuotaVerdict:
        """See ``Quota``."""
        return self.reserve_now(tenant, limits, reservation_id, tokens)

    async def settle(self, verdict: QuotaVerdict, tokens: int) -> None:
        """See ``Quota``."""
        self.settle_now(verdict, tokens)

    def reserve_now(
        self,
        tenant: TenantId,
        limits: QuotaLimits,
        reservation_id: str,
        tokens: int,
        *,
        unsure: bool = False,
    ) -> QuotaVerdict:
        """``reserve`` without waiting for anything."""
        if limits.unlimited:
            return unlimited(tenant, limits, reservation_id)
        now = wall_ms(self._clock)
        account = self._accounts.setdefault(tenant, _Account())
        self._expire(account, now)
        earlier = account.reservations.get(reservation_id)
        if earlier is not None:
            return earlier.verdict
        rpm, tpm = limits.requests_per_minute, limits.tokens_per_minute
        requests = _bucket(account.requests, now, rpm)
        bucket = _bucket(account.tokens, now, tpm)
        need = 0 if tpm is None else min(tokens, tpm)
        refused, retry_ms = 0, 0
        most = limits.max_concurrent
        if most is not None and len(account.in_flight) >= most:
            refused, retry_ms = 1, CONCURRENT_RETRY_MS
        elif rpm is not None and requests.level < 1 - SLACK:
            refused, retry_ms = 2, ms_until(requests.level, 1, rpm)
        elif tpm is not None and bucket.level < need - SLACK:
            refused, retry_ms = 3, ms_until(bucket.level, need, tpm)
        if refused == 0:
            requests.level -= 1
            bucket.level -= need
            account.requests = None if rpm is None else requests
            account.tokens = None if tpm is None else bucket
            account.in_flight[reservation_id] = now + self._lease_ms
        verdict = make_verdict(
            tenant,
            limits,
            reservation_id,
            QuotaSource.LOCAL,
            refused=refused,
            requests_level=requests.level,
            tokens_level=bucket.level,
            in_flight=len(account.in_flight),
            retry_ms=retry_ms,
            unsure=unsure,
        )
        if refused == 0:
            account.reservations[reservation_id] = _Reservation(verdict, need)
            heapq.heappush(account.expiries, (now + self._lease_ms, reservation_id))
        return verdict

    def settle_now(self, verdict: QuotaVerdict, tokens: int) -> None:
        """``settle`` without waiting for anything."""
        account = self._accounts.get(verdict.tenant)
        if account is None:
            return
        account.in_flight.pop(verdict.reservation_id, None)
        reservation = account.reservations.get(verdict.reservation_id)
        if reservation is None or not reservation.open:
            return
        reservation.open = False
        limit = verdict.limits.tokens_per_minute
        if limit is not None and account.tokens is not None:
            level = account.tokens.refill(wall_ms(self._clock), limit)
            account.tokens.level = min(float(limit), level + reservation.charged - tokens)

    def in_flight(self, tenant: TenantId) -> int:
        """Requests reserved and not settled."""
        account = self._accounts.get(tenant)
        return 0 if account is None else len(account.in_flight)

    def check_integrity(self) -> None:
        """Verify that every place in flight belongs to an open reservation.

        Raises:
            IntegrityError: with both numbers.
        """
        for tenant, account in self._accounts.items():
            open_ones = {id_ for id_, r in account.reservations.items() if r.open}
            if open_ones != account.in_flight.keys():
                raise IntegrityError(
                    f"quota of {tenant}: {len(account.in_flight)} in flight, "
                    f"{len(open_ones)} open reservations"
                )

    def _expire(self, account: _Account, now: float) -> None:
        while account.expiries and account.expiries[0][0] <= now:
            _, reservation_id = heapq.heappop(account.expiries)
            account.in_flight.pop(reservation_id, None)
            account.reservations.pop(reservation_id, None)


def _bucket(stored: _Bucket | None, now: float, per_minute: int | None) -> _Bucket:
    """The bucket as of now; full where none is stored, a dummy where there is no limit."""
    if per_minute is None:
        return _Bucket(0.0, now)
    bucket = _Bucket(float(per_minute), now) if stored is None else stored
    bucket.refill(now, per_minute)
    return bucket
