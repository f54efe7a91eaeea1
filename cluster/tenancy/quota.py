"""Requests per minute, tokens per minute and sequences at once, per tenant.

``enter`` takes one request. ``reserve`` takes a place for each sequence and the tokens that the
request will probably use, ``settle`` frees the places and charges the tokens really used, be they
less or more. A request is admitted while any token is left, so one request may take the level below
zero; what all that run may still generate beyond their reservations is bounded as well
(``DEBT_MINUTES``, ``FREE_SEQUENCES``). A refused request is charged nothing.

Ids make all calls safe to repeat. They must be the server's own and new for each request: a client
that chose one could make all its requests one.
"""

from dataclasses import dataclass, field
from typing import Protocol

from cluster.clock import Clock
from cluster.domain.ids import TenantId
from cluster.errors import IntegrityError
from cluster.tenancy.limits import (
    DEBT_MINUTES,
    FREE_SEQUENCES,
    REFUSALS,
    SLACK,
    QuotaAsk,
    QuotaLimits,
    QuotaSource,
    QuotaVerdict,
    bucket_state,
    ms_until,
    refilled,
    wall_ms,
)

RETRY_MS = 1000
"""When a place or a running request's tokens may be free is not known; callers hear this."""


class Quota(Protocol):
    """One contract over memory and Redis."""

    async def enter(self, tenant: TenantId, limits: QuotaLimits, entry_id: str) -> QuotaVerdict:
        """Charge one request, or refuse it."""
        ...

    async def reserve(
        self, tenant: TenantId, limits: QuotaLimits, reservation_id: str, ask: QuotaAsk
    ) -> QuotaVerdict:
        """Take places and tokens, or refuse and take nothing."""
        ...

    async def settle(self, verdict: QuotaVerdict, tokens: int) -> None:
        """End an allowed reservation with the tokens really used; again is harmless."""
        ...

    async def renew(self) -> None:
        """Keep the places of all reservations that are not settled."""
        ...


def unlimited(tenant: TenantId, limits: QuotaLimits, reservation_id: str) -> QuotaVerdict:
    """Return the verdict of a request of which nothing is counted."""
    return QuotaVerdict(tenant, reservation_id, limits, True, QuotaSource.UNLIMITED)


def make_verdict(
    tenant: TenantId,
    limits: QuotaLimits,
    reservation_id: str,
    source: QuotaSource,
    *,
    ask: QuotaAsk,
    refused: int,
    requests_level: float,
    tokens_level: float,
    in_flight: int,
    retry_ms: int,
    unsure: bool = False,
) -> QuotaVerdict:
    """Return a verdict from bucket levels; ``refused`` indexes ``REFUSALS``."""
    rpm, tpm = limits.requests_per_minute, limits.tokens_per_minute
    return QuotaVerdict(
        tenant=tenant,
        reservation_id=reservation_id,
        limits=limits,
        allowed=refused == 0,
        source=source,
        ask=ask,
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
        self.at = now
        return self.level


@dataclass(frozen=True, slots=True)
class _Reservation:
    ask: QuotaAsk
    expires: float  # wall clock, milliseconds


@dataclass(slots=True)
class _Account:
    requests: _Bucket
    tokens: _Bucket
    reservations: dict[str, _Reservation] = field(default_factory=dict)  # in order of expiry
    places: int = 0
    exposure: int = 0

    def end(self, reservation_id: str) -> _Reservation | None:
        ended = self.reservations.pop(reservation_id, None)
        if ended is not None:
            self.places -= ended.ask.places
            self.exposure -= ended.ask.exposure
        return ended


class MemoryQuota:
    """Counts in this process; the same arithmetic as the Lua scripts."""

    def __init__(self, clock: Clock, lease_s: float) -> None:
        """Free the place of a request that was never settled after ``lease_s`` seconds."""
        self._clock = clock
        self._lease_ms = lease_s * 1000
        self._accounts: dict[TenantId, _Account] = {}

    async def enter(self, tenant: TenantId, limits: QuotaLimits, entry_id: str) -> QuotaVerdict:
        """Charge one request, or refuse it."""
        return self.enter_now(tenant, limits, entry_id)

    async def reserve(
        self, tenant: TenantId, limits: QuotaLimits, reservation_id: str, ask: QuotaAsk
    ) -> QuotaVerdict:
        """Take places and tokens, or refuse and take nothing."""
        return self.reserve_now(tenant, limits, reservation_id, ask)

    async def settle(self, verdict: QuotaVerdict, tokens: int) -> None:
        """End an allowed reservation with the tokens really used."""
        self.settle_now(verdict, tokens)

    async def renew(self) -> None:
        """Do nothing: places of this process end with it."""

    def enter_now(self, tenant: TenantId, limits: QuotaLimits, entry_id: str) -> QuotaVerdict:
        """Charge as ``enter`` does, without waiting."""
        rpm = limits.requests_per_minute
        if rpm is None:
            return unlimited(tenant, limits, entry_id)
        account = self._account(tenant, limits)
        refused, retry_ms = 0, 0
        if account.requests.level < 1 - SLACK:
            refused, retry_ms = 2, ms_until(account.requests.level, 1, rpm)
        else:
            account.requests.level -= 1
        return self._verdict(tenant, limits, entry_id, QuotaAsk(0), account, refused, retry_ms)

    def reserve_now(
        self,
        tenant: TenantId,
        limits: QuotaLimits,
        reservation_id: str,
        ask: QuotaAsk,
        *,
        unsure: bool = False,
    ) -> QuotaVerdict:
        """Reserve as ``reserve`` does, without waiting."""
        if limits.unlimited:
            return unlimited(tenant, limits, reservation_id)
        account = self._account(tenant, limits)
        refused, retry_ms = 0, 0
        if reservation_id not in account.reservations:
            refused, retry_ms = _refusal(account, limits, ask)
            if refused == 0:
                account.tokens.level -= _charge(limits, ask)
                account.places += ask.places
                account.exposure += ask.exposure
                expires = wall_ms(self._clock) + self._lease_ms
                account.reservations[reservation_id] = _Reservation(ask, expires)
        return self._verdict(
            tenant, limits, reservation_id, ask, account, refused, retry_ms, unsure=unsure
        )

    def settle_now(self, verdict: QuotaVerdict, tokens: int) -> None:
        """Settle as ``settle`` does, without waiting."""
        if verdict.tenant not in self._accounts:
            return
        account = self._account(verdict.tenant, verdict.limits)
        ended = account.end(verdict.reservation_id)
        limit = verdict.limits.tokens_per_minute
        if ended is not None and limit is not None:
            level = account.tokens.level + ended.ask.expected - tokens
            account.tokens.level = min(float(limit), level)

    def in_flight(self, tenant: TenantId) -> int:
        """Return the number of sequences reserved and not settled."""
        account = self._accounts.get(tenant)
        return 0 if account is None else account.places

    def check_integrity(self) -> None:
        """Verify that places and exposure are the sums over what is reserved.

        Raises:
            IntegrityError: with both numbers.
        """
        for tenant, account in self._accounts.items():
            asks = [reservation.ask for reservation in account.reservations.values()]
            found = (account.places, account.exposure)
            summed = (sum(ask.places for ask in asks), sum(ask.exposure for ask in asks))
            if found != summed:
                raise IntegrityError(
                    f"quota of {tenant}: (places, exposure) {found}, of reservations {summed}"
                )

    def _account(self, tenant: TenantId, limits: QuotaLimits) -> _Account:
        """Return the tenant's account as of now; buckets start full, and are refilled."""
        now = wall_ms(self._clock)
        rpm, tpm = limits.requests_per_minute or 0, limits.tokens_per_minute or 0
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account(_Bucket(rpm, now), _Bucket(tpm, now))
        account.requests.refill(now, rpm)
        account.tokens.refill(now, tpm)
        while account.reservations:
            oldest = next(iter(account.reservations))
            if account.reservations[oldest].expires > now:
                break
            account.end(oldest)
        return account

    @staticmethod
    def _verdict(
        tenant: TenantId,
        limits: QuotaLimits,
        reservation_id: str,
        ask: QuotaAsk,
        account: _Account,
        refused: int,
        retry_ms: int,
        *,
        unsure: bool = False,
    ) -> QuotaVerdict:
        return make_verdict(
            tenant,
            limits,
            reservation_id,
            QuotaSource.LOCAL,
            ask=ask,
            refused=refused,
            requests_level=account.requests.level,
            tokens_level=account.tokens.level,
            in_flight=account.places,
            retry_ms=retry_ms,
            unsure=unsure,
        )


def _charge(limits: QuotaLimits, ask: QuotaAsk) -> int:
    return 0 if limits.tokens_per_minute is None else ask.expected


def _refusal(account: _Account, limits: QuotaLimits, ask: QuotaAsk) -> tuple[int, int]:
    """Return an index in ``REFUSALS`` and milliseconds to wait."""
    most, tpm = limits.max_concurrent, limits.tokens_per_minute
    if most is not None and account.places + ask.places > most:
        return 1, RETRY_MS
    if tpm is None:
        return 0, 0
    if account.tokens.level < 1 - SLACK:
        return 3, ms_until(account.tokens.level, 1, tpm)
    if (
        account.places > 0
        and account.places + ask.places > FREE_SEQUENCES
        and account.exposure + ask.exposure > DEBT_MINUTES * tpm
    ):
        return 4, RETRY_MS
    return 0, 0
