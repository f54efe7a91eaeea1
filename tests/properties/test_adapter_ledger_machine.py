"""The adapter ledger against a naive model, for slots and for bytes of host memory alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.adapters.residency.eviction import EvictionPolicy
from cluster.adapters.residency.ledger import NO_SLOT, AdapterLedger
from cluster.adapters.residency.residency_types import SizedVersion
from cluster.adapters.residency.shares import Amount
from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import IntegrityError
from tests.support.manual_clock import ManualClock

SIZES = {"a": 10, "b": 10, "c": 25, "d": 40, "e": 5, "f": 10}
DIGESTS = st.sampled_from(sorted(SIZES))
TENANTS = st.sampled_from([TenantId(name) for name in ("acme", "bolt", "cold")])
WINDOW = 40.0


def sized(name: str) -> SizedVersion:
    return SizedVersion(AdapterDigest(name), name.upper(), 8, SIZES[name])


class LedgerMachine(RuleBasedStateMachine):
    """The model: what is being read or at rest, open claims, and who used what when."""

    @initialize(budget=st.integers(0, 90), slots=st.none() | st.integers(0, 6))
    def start(self, budget: int, slots: int | None) -> None:
        self.budget, self.slots = budget, slots
        self.clock = ManualClock()
        self.ledger = AdapterLedger("a tier", budget, slots, WINDOW, self.clock)
        self.policy = EvictionPolicy(self.ledger)
        self.at_rest = AdapterState.ON_HOST if slots is None else AdapterState.READY
        self.there: dict[str, bool] = {}
        self.claims: dict[int, tuple[TenantId | None, frozenset[str]]] = {}
        self.ended: list[int] = []
        self.pinned: set[str] = set()
        self.used_at: dict[str, dict[TenantId, float]] = {}
        self.seen_at: dict[TenantId, float] = {}

    def users(self, name: str) -> set[TenantId]:
        since = self.clock.monotonic() - WINDOW
        return {t for t, at in self.used_at.get(name, {}).items() if at > since}

    def note(self, tenant: TenantId, name: str) -> None:
        self.used_at.setdefault(name, {})[tenant] = self.clock.monotonic()
        self.seen_at[tenant] = self.clock.monotonic()

    def room(self, names) -> Amount:
        return Amount(0 if self.slots is None else len(names), sum(SIZES[n] for n in names))

    def total(self) -> Amount:
        return Amount(self.slots or 0, self.budget)

    def room_of(self, tenant: TenantId, gone=frozenset()) -> Amount:
        names = self.there.keys() - self.pinned - set(gone)
        return self.room([n for n in names if tenant in self.users(n)])

    def claimed(self, name: str) -> int:
        return sum(name in names for _, names in self.claims.values())

    def idle(self) -> set[str]:
        ready = {n for n, there in self.there.items() if there and not self.claimed(n)}
        return ready - self.pinned

    def reading(self) -> list[str]:
        return sorted(n for n, there in self.there.items() if not there)

    def forget(self, name: str) -> None:
        del self.there[name]
        self.used_at.pop(name, None)

    @rule(name=DIGESTS, tenant=st.none() | TENANTS)
    def reserve(self, name: str, tenant: TenantId | None) -> None:
        if name in self.there:
            with pytest.raises(IntegrityError, match="already"):
                self.policy.reserve_evicting(sized(name), tenant)
            with pytest.raises(IntegrityError, match="already"):
                self.ledger.reserve(sized(name), tenant)
            return
        new = self.room([name])
        short = self.room(self.there) + new - self.total()
        spare = {n for n in self.idle() if tenant is not None or not self.users(n)}
        victims = self.policy.reserve_evicting(sized(name), tenant)
        since = self.clock.monotonic() - WINDOW
        others = {t for t, at in self.seen_at.items() if at > since} - {tenant}
        pinned = self.room(self.pinned & self.there.keys())
        if victims is None:
            enough = short.fits(self.room(spare)) and new.fits(self.total())
            assert not enough or (tenant is not None and others), "there was room"
            everything_idle = self.idle() | self.pinned >= self.there.keys()
            fits = (new + pinned).fits(self.total())
            assert not (fits and everything_idle and tenant is not None), "it waits for nothing"
            return
        assert set(victims) <= spare
        assert short.fits(self.room(victims))
        if tenant is not None and others:
            share = (self.total() - pinned).part(1 / len(others | {tenant}))
            own = [n for n in self.there if self.users(n) == {tenant} and n not in self.pinned]
            within = (new + self.room([n for n in own if n not in victims])).fits(share)
            for other in others if new.fits(share) else ():
                if any(other in self.users(n) for n in victims):
                    left = self.room_of(other, victims)
                    kept = left.nbytes >= share.nbytes or left.slots >= share.slots > 0
                    assert kept or (within and not self.room_of(other).fits(share))
        for victim in victims:
            self.forget(victim)
        self.there[name] = False
        if tenant is not None:
            self.note(tenant, name)

    @rule(name=DIGESTS)
    def reserve_without_room(self, name: str) -> None:
        if name in self.there or (self.room(self.there) + self.room([name])).fits(self.total()):
            return
        with pytest.raises(IntegrityError, match="do not fit"):
            self.ledger.reserve(sized(name))

    @precondition(lambda self: self.reading())
    @rule(data=st.data(), works=st.booleans())
    def finish_a_read(self, data: st.DataObject, works: bool) -> None:
        name = data.draw(st.sampled_from(self.reading()))
        digest = AdapterDigest(name)
        if works:
            self.ledger.change_state(digest, AdapterState.FETCHING, self.at_rest)
            self.there[name] = True
            with pytest.raises(IntegrityError, match=f"expected {AdapterState.FETCHING}"):
                self.ledger.change_state(digest, AdapterState.FETCHING, self.at_rest)
            return
        if self.claimed(name):
            with pytest.raises(IntegrityError, match="claims, expected 0"):
                self.ledger.remove(digest)
        self.ledger.end_claims_on(digest)
        for number, (tenant, names) in tuple(self.claims.items()):
            if name in names:
                self.end_in_the_model(number, tenant, names)
        self.ledger.remove(digest)
        self.forget(name)

    def end_in_the_model(self, number, tenant, names) -> None:
        del self.claims[number]
        self.ended.append(number)
        for name in names if tenant is not None else ():
            self.note(tenant, name)

    @precondition(lambda self: self.there)
    @rule(data=st.data(), tenant=TENANTS)
    def use(self, data: st.DataObject, tenant: TenantId) -> None:
        name = data.draw(st.sampled_from(sorted(self.there)))
        self.ledger.note_use((AdapterDigest(name),), tenant)
        self.note(tenant, name)

    @precondition(lambda self: self.there)
    @rule(data=st.data(), tenant=st.none() | TENANTS)
    def claim(self, data: st.DataObject, tenant: TenantId | None) -> None:
        here = st.sampled_from(sorted(self.there))
        names = data.draw(st.frozensets(here, min_size=1, max_size=2))
        number = self.ledger.claim(frozenset(map(AdapterDigest, names)), tenant)
        assert number not in self.claims
        assert number not in self.ended
        self.claims[number] = tenant, names

    @precondition(lambda self: self.claims or self.ended)
    @rule(data=st.data())
    def end_claim(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from([*sorted(self.claims), *self.ended]))
        assert self.ledger.end_claim(number) is (number in self.claims)
        if number in self.claims:
            self.end_in_the_model(number, *self.claims[number])

    @rule(name=DIGESTS)
    def remove(self, name: str) -> None:
        if self.there.get(name) is not True:
            return
        if self.claimed(name):
            with pytest.raises(IntegrityError, match="claims, expected 0"):
                self.ledger.remove(AdapterDigest(name))
            return
        self.ledger.remove(AdapterDigest(name))
        self.forget(name)

    @rule(name=DIGESTS, on=st.booleans())
    def pin(self, name: str, on: bool) -> None:
        (self.ledger.pin_adapter if on else self.ledger.unpin_adapter)(AdapterDigest(name))
        (self.pinned.add if on else self.pinned.discard)(name)

    @rule(seconds=st.sampled_from([1.0, WINDOW / 2, WINDOW]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def ledger_balances(self) -> None:
        self.ledger.check_integrity()
        residents = self.ledger.resident_adapters()
        found = {r.digest: (r.state, r.nbytes, r.leases, r.pinned) for r in residents}
        states = {True: self.at_rest, False: AdapterState.FETCHING}
        leases = {n: 0 if self.slots is None else self.claimed(n) for n in self.there}
        assert found == {
            n: (states[there], SIZES[n], leases[n], n in self.pinned)
            for n, there in self.there.items()
        }
        assert self.ledger.claims == len(self.claims)
        assert self.ledger.bytes_used == sum(SIZES[n] for n in self.there) <= self.budget
        taken = [self.ledger.residents[AdapterDigest(n)].slot for n in self.there]
        if self.slots is None:
            assert set(taken) <= {NO_SLOT}
        else:
            assert len(set(taken)) == len(taken) <= self.slots
        assert {n for n in self.there if self.ledger.is_idle(AdapterDigest(n))} == self.idle()


LedgerMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestAdapterLedger = LedgerMachine.TestCase


@given(names=st.lists(DIGESTS, max_size=30), slots=st.sampled_from([None, 2, 6]))
def test_one_tenant_alone_uses_all_of_it(names, slots):
    ledger = AdapterLedger("a tier", 60, slots, WINDOW, ManualClock())
    policy = EvictionPolicy(ledger)
    for name in names:
        digest = AdapterDigest(name)
        if digest not in ledger.residents:
            assert policy.reserve_evicting(sized(name), TenantId("acme")) is not None
            ledger.change_state(digest, AdapterState.FETCHING, ledger.at_rest)
        ledger.note_use((digest,), TenantId("acme"))


@pytest.mark.parametrize("slots", [None, 3])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda ledger: setattr(ledger, "bytes_used", 11), "found 10, expected 11"),
        (lambda ledger: setattr(ledger, "memory_bytes", 9), "10 bytes used of 9"),
        (lambda ledger: ledger._claims.clear(), "found 1, expected 0"),
        (lambda ledger: ledger.residents.clear(), "found .*, expected"),
        (lambda ledger: ledger._free.append(1), r"found \[.*\], expected \["),
    ],
)
def test_integrity_names_both_numbers(spoil, says, slots):
    ledger = AdapterLedger("a tier", 60, slots, WINDOW, ManualClock())
    ledger.reserve(sized("a"))
    ledger.claim(frozenset({AdapterDigest("a")}))
    ledger.check_integrity()
    spoil(ledger)
    with pytest.raises(IntegrityError, match=says):
        ledger.check_integrity()
