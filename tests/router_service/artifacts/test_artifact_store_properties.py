"""Cache and breaker as state machines against naive models."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cluster.domain.ids import DecisionId, TenantId
from router_service.decision_store.breaker import BreakerState, CircuitBreaker
from router_service.decision_store.decision_store import StoredDecision
from router_service.decision_store.local_cache import LocalCache
from tests.support.decisions import decision_over
from tests.support.manual_clock import ManualClock

_tenants = st.sampled_from([TenantId("acme"), TenantId("globex")])
_ids = st.sampled_from([DecisionId(f"dec_{n}") for n in range(5)])


def _signed(tenant: TenantId, name: DecisionId, expires_at: float) -> StoredDecision:
    decision = decision_over(id=name, tenant=tenant, expires_at=expires_at)
    return StoredDecision(decision, b"")


class LocalCacheMachine(RuleBasedStateMachine):
    """The model is a list, least recently used first."""

    @initialize(size=st.integers(1, 4))
    def start(self, size: int) -> None:
        self.clock = ManualClock()
        self.size = size
        self.cache = LocalCache(self.clock, size)
        self.model: list[StoredDecision] = []

    @rule(tenant=_tenants, name=_ids, ttl=st.integers(1, 5))
    def put(self, tenant: TenantId, name: DecisionId, ttl: int) -> None:
        signed = _signed(tenant, name, self.clock.wall() + ttl)
        self.cache.put(signed)
        self._drop(tenant, name)
        self.model = [*self.model, signed][-self.size :]

    @rule(tenant=_tenants, name=_ids)
    def get(self, tenant: TenantId, name: DecisionId) -> None:
        found = self._drop(tenant, name)
        if found is not None and found.decision.expires_at <= self.clock.wall():
            found = None
        if found is not None:
            self.model.append(found)
        assert self.cache.get(tenant, name) == found

    @rule(seconds=st.integers(0, 3))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def balances(self) -> None:
        self.cache.check_integrity()
        assert len(self.cache) == len(self.model)

    def _drop(self, tenant: TenantId, name: DecisionId) -> StoredDecision | None:
        for signed in self.model:
            if (signed.decision.tenant, signed.decision.id) == (tenant, name):
                self.model.remove(signed)
                return signed
        return None


class BreakerMachine(RuleBasedStateMachine):
    """While it is not closed, at most one call is out, and none before the reset time."""

    @initialize()
    def start(self) -> None:
        self.clock = ManualClock()
        self.breaker = CircuitBreaker(self.clock, 5)
        self.probing = False
        self.failed_at: float | None = None

    @rule(end=st.sampled_from(["succeeds", "fails", "is cancelled", "is slow"]))
    def call(self, end: str) -> None:
        now = self.clock.monotonic()
        may = self.failed_at is None or (not self.probing and now - self.failed_at >= 5)
        assert self.breaker.admit() is may
        if not may:
            return
        match end:
            case "succeeds":
                self.breaker.succeeded()
                self.failed_at = None
            case "fails":
                self.breaker.failed()
                self.failed_at = now
            case "is cancelled":
                self.breaker.abandoned()
            case "is slow":
                self.probing = self.failed_at is not None

    @rule(success=st.booleans())
    def the_slow_probe_ends(self, success: bool) -> None:
        if not self.probing:
            return
        self.probing = False
        if success:
            self.breaker.succeeded()
            self.failed_at = None
        else:
            self.breaker.failed()
            self.failed_at = self.clock.monotonic()

    @rule(seconds=st.sampled_from([1, 4, 5]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def state_tells(self) -> None:
        expected = BreakerState.CLOSED
        if self.failed_at is not None:
            expected = BreakerState.HALF_OPEN if self.probing else BreakerState.OPEN
        assert self.breaker.state is expected


TestLocalCache = LocalCacheMachine.TestCase
TestLocalCache.settings = settings(max_examples=50, stateful_step_count=30)
TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=50, stateful_step_count=30)
