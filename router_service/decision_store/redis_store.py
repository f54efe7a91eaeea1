"""Keeps decisions in Redis or Valkey."""

from collections.abc import Awaitable
from typing import TypeVar

from redis.exceptions import RedisError, ResponseError

from cluster.clock import Clock
from cluster.config import DecisionConfig
from cluster.domain.ids import DecisionId, TenantId
from cluster.errors import DecisionRejected, StoreUnavailable
from cluster.redis_client import redis_client
from router_service.decision_store.breaker import BreakerState, CircuitBreaker
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.decision_store import (
    DecisionTampered,
    StoreCounters,
    StoredDecision,
)
from router_service.decision_store.keys import decision_key

T = TypeVar("T")


class RedisDecisionStore:
    """Stores signed decisions as Redis strings with a TTL (layout: ``decision_store.keys``).

    A command that does not answer within ``config.redis_timeout_s`` fails, is not tried again and
    opens the breaker: for ``config.breaker_reset_s`` no command is sent, then one is. So an outage
    costs a request at most one timeout, and storing resumes by itself.

    Make it inside the event loop that uses it; connections are opened on first use.
    """

    def __init__(
        self, url: str, codec: DecisionCodec, clock: Clock, config: DecisionConfig
    ) -> None:
        """``url`` is ``redis://``, ``rediss://`` or ``unix://``.

        Raises:
            ConfigError: the URL is none of these.
        """
        self.counters = StoreCounters()
        self._codec = codec
        self._clock = clock
        self._breaker = CircuitBreaker(clock, config.breaker_reset_s)
        self._redis = redis_client(url, timeout_s=config.redis_timeout_s, name="braid-decisions")

    @property
    def breaker_state(self) -> BreakerState:
        """Return whether Redis is being asked at present."""
        return self._breaker.state

    async def get(self, tenant: TenantId, decision_id: DecisionId) -> StoredDecision | None:
        key = decision_key(tenant, decision_id)
        try:
            encoded = await self._guarded(self._read(key))
            if encoded is None:
                self.counters.misses += 1
                return None
            stored = self._codec.open(
                encoded, tenant=tenant, decision_id=decision_id, now=self._clock.wall()
            )
        except DecisionRejected as error:
            self.counters.count_rejection(error)
            raise
        self.counters.hits += 1
        return stored

    async def put(self, stored: StoredDecision, ttl_s: float) -> None:
        if ttl_s <= 0:
            raise ValueError(f"ttl_s must be positive, not {ttl_s}")
        key = decision_key(stored.decision.tenant, stored.decision.id)
        ttl_ms = max(1, round(ttl_s * 1000))
        await self._guarded(self._redis.set(key, stored.encoded, px=ttl_ms))
        self.counters.stored += 1

    async def ping(self) -> None:
        """Ask even while the breaker is open: an answer closes it."""
        await self._observed(self._redis.ping())

    async def close(self) -> None:
        await self._redis.aclose()

    async def _read(self, key: str) -> bytes | None:
        try:
            value = await self._redis.get(key)
        except ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                raise DecisionTampered("the decision's key holds another type") from error
            raise
        return value.encode() if isinstance(value, str) else value

    async def _guarded(self, command: Awaitable[T]) -> T:
        """Await a command if the breaker lets it through."""
        if not self._breaker.admit():
            _discard(command)
            self.counters.unavailable += 1
            raise StoreUnavailable("Redis failed a moment ago and is left alone for now")
        return await self._observed(command)

    async def _observed(self, command: Awaitable[T]) -> T:
        """Await a command, tell the breaker how it ended and map what Redis raises."""
        concluded = False
        try:
            answer = await command
            concluded = True
        except DecisionRejected:
            concluded = True
            raise
        except (RedisError, OSError) as error:
            self._breaker.failed()
            self.counters.unavailable += 1
            raise StoreUnavailable(f"Redis: {type(error).__name__}: {error}") from error
        finally:
            if concluded:
                self._breaker.succeeded()
            else:
                self._breaker.abandoned()
        return answer


def _discard(command: Awaitable[object]) -> None:
    """Close a coroutine that will not run, so that it is not reported as forgotten."""
    close = getattr(command, "close", None)
    if close is not None:
        close()
