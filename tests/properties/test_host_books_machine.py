"""The host tier's books against a naive model."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.adapters.residency.host_books import HostBooks, HostCandidate
from cluster.clock import ManualClock
from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import IntegrityError

SIZES = {"a": 10, "b": 10, "c": 25, "d": 40, "e": 5, "f": 10}
DIGESTS = st.sampled_from(sorted(SIZES))
TENANTS = st.sampled_from([TenantId(name) for name in ("acme", "bolt", "cold")])
WINDOW = 40.0


def candidate(name: str) -> HostCandidate:
    return HostCandidate(AdapterDigest(name), name.upper(), 8, SIZES[name])


class HostBooksMachine(RuleBasedStateMachine):
    """The model: what is being read or there, the open holds, and who used what when."""

    @initialize(budget=st.integers(0, 90))
    def start(self, budget: int) -> None:
        self.budget = budget
        self.clock = ManualClock()
        self.books = HostBooks(budget, WINDOW, self.clock)
        self.there: dict[str, bool] = {}
        self.holds: dict[int, str] = {}
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

    def bytes_of(self, tenant: TenantId, gone=frozenset()) -> int:
        names = self.there.keys() - self.pinned - set(gone)
        return sum(SIZES[n] for n in names if tenant in self.users(n))

    def idle(self) -> set[str]:
        ready = {n for n, there in self.there.items() if there}
        return ready - set(self.holds.values()) - self.pinned

    def reading(self) -> list[str]:
        return sorted(n for n, there in self.there.items() if not there)

    def forget(self, name: str) -> None:
        del self.there[name]
        self.used_at.pop(name, None)

    @rule(name=DIGESTS, tenant=st.none() | TENANTS)
    def reserve(self, name: str, tenant: TenantId | None) -> None:
        if name in self.there:
            with pytest.raises(IntegrityError, match="already"):
                self.books.reserve(candidate(name), tenant)
            return
        used = sum(SIZES[n] for n in self.there)
        short = used + SIZES[name] - self.budget
        spare = {n for n in self.idle() if tenant is not None or not self.users(n)}
        victims = self.books.reserve(candidate(name), tenant)
        since = self.clock.monotonic() - WINDOW
        others = {t for t, at in self.seen_at.items() if at > since} - {tenant}
        if victims is None:
            enough = sum(SIZES[n] for n in spare) >= short and SIZES[name] <= self.budget
            assert not enough or (tenant is not None and others), "there was room"
            everything_idle = self.idle() | self.pinned >= self.there.keys()
            pinned = sum(SIZES[n] for n in self.pinned & self.there.keys())
            fits = SIZES[name] + pinned <= self.budget
            assert not (fits and everything_idle and tenant is not None), "it waits for nothing"
            return
        assert set(victims) <= spare
        assert sum(SIZES[n] for n in victims) >= short
        if tenant is not None and others:
            pinned = sum(SIZES[n] for n in self.pinned & self.there.keys())
            share = (self.budget - pinned) // len(others | {tenant})
            own = [n for n in self.there if self.users(n) == {tenant} and n not in self.pinned]
            within = SIZES[name] + sum(SIZES[n] for n in own if n not in victims) <= share
            for other in others if SIZES[name] <= share else ():
                if any(other in self.users(n) for n in victims):
                    kept = self.bytes_of(other, victims) >= share
                    assert kept or (within and self.bytes_of(other) > share)
        for victim in victims:
            self.forget(victim)
        self.there[name] = False
        if tenant is not None:
            self.note(tenant, name)

    @precondition(lambda self: self.reading())
    @rule(data=st.data(), works=st.booleans())
    def finish_a_read(self, data: st.DataObject, works: bool) -> None:
        name = data.draw(st.sampled_from(self.reading()))
        if works:
            self.books.arrived(AdapterDigest(name))
            self.there[name] = True
            return
        self.books.failed(AdapterDigest(name))
        self.ended += [hold for hold, held in self.holds.items() if held == name]
        self.holds = {hold: held for hold, held in self.holds.items() if held != name}
        self.forget(name)

    @precondition(lambda self: self.there)
    @rule(data=st.data(), tenant=TENANTS)
    def use(self, data: st.DataObject, tenant: TenantId) -> None:
        name = data.draw(st.sampled_from(sorted(self.there)))
        self.books.use(AdapterDigest(name), tenant)
        self.note(tenant, name)

    @rule(name=DIGESTS)
    def hold(self, name: str) -> None:
        hold = self.books.hold(AdapterDigest(name))
        assert (hold is None) == (name not in self.there)
        if hold is not None:
            assert hold not in self.holds
            self.holds[hold] = name

    @precondition(lambda self: self.holds or self.ended)
    @rule(data=st.data())
    def unhold(self, data: st.DataObject) -> None:
        hold = data.draw(st.sampled_from([*sorted(self.holds), *self.ended]))
        self.books.unhold(hold)
        if self.holds.pop(hold, None) is not None:
            self.ended.append(hold)

    @rule(name=DIGESTS)
    def drop(self, name: str) -> None:
        held = name in self.holds.values() or self.there.get(name) is False
        assert self.books.drop(AdapterDigest(name)) is not held
        if name in self.there and not held:
            self.forget(name)

    @rule(name=DIGESTS, on=st.booleans())
    def pin(self, name: str, on: bool) -> None:
        (self.books.pin if on else self.books.unpin)(AdapterDigest(name))
        (self.pinned.add if on else self.pinned.discard)(name)

    @rule(seconds=st.sampled_from([1.0, WINDOW / 2, WINDOW]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def books_balance(self) -> None:
        self.books.check_integrity()
        found = {r.digest: (r.state, r.nbytes, r.pinned) for r in self.books.residents()}
        states = {True: AdapterState.ON_HOST, False: AdapterState.FETCHING}
        assert found == {
            n: (states[there], SIZES[n], n in self.pinned) for n, there in self.there.items()
        }
        assert self.books.bytes_used == sum(SIZES[n] for n in self.there) <= self.budget


HostBooksMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestHostBooks = HostBooksMachine.TestCase


@given(names=st.lists(DIGESTS, max_size=30))
def test_one_tenant_alone_uses_all_of_it(names):
    books = HostBooks(60, WINDOW, ManualClock())
    for name in names:
        digest = AdapterDigest(name)
        if digest not in books:
            assert books.reserve(candidate(name), TenantId("acme")) is not None
            books.arrived(digest)
        books.use(digest, TenantId("acme"))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda books: setattr(books, "_bytes_used", 11), "found 10, expected 11"),
        (lambda books: setattr(books, "memory_bytes", 9), "10 bytes used of 9"),
        (lambda books: books._holds.clear(), "found 1, expected 0"),
    ],
)
def test_integrity_names_both_numbers(spoil, says):
    books = HostBooks(60, WINDOW, ManualClock())
    books.reserve(candidate("a"), None)
    books.hold(AdapterDigest("a"))
    books.check_integrity()
    spoil(books)
    with pytest.raises(IntegrityError, match=says):
        books.check_integrity()
