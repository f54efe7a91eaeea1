"""The adapter pool against a naive model that recomputes everything from lists."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.adapters.residency.eviction import Evictable, choose_victims, eviction_order
from cluster.adapters.residency.ledger import MAX_COUNTED_USES
from cluster.adapters.residency.pool import TRANSITIONS, AdapterPool
from cluster.adapters.residency.residency_types import Admitted, MustEvict, MustWait, SizedVersion
from cluster.adapters.residency.shares import Amount, Occupancy, ShareGuard, TierShares
from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import AdapterCapacity, AdapterLoadFailed, AdapterUnsupported
from tests.support.manual_clock import ManualClock

SIZES = {"a": 10, "b": 10, "c": 25, "d": 40, "e": 5, "f": 10}
DIGESTS = st.sampled_from(sorted(SIZES))
MIXTURES = st.lists(DIGESTS, max_size=3)
TENANTS = st.sampled_from([TenantId(name) for name in ("acme", "bolt", "cold")])
TTL = 30.0
WINDOW = 40.0


def candidate(name: str) -> SizedVersion:
    return SizedVersion(AdapterDigest(name), name.upper(), 8, SIZES[name])


class AdapterPoolMachine(RuleBasedStateMachine):
    """The model: each version's state and size, the open leases, and the history of uses."""

    @initialize(slots=st.integers(1, 6), budget=st.integers(40, 120))
    def start(self, slots: int, budget: int) -> None:
        self.slots, self.budget = slots, budget
        self.clock = ManualClock()
        self.pool = AdapterPool(slots, budget, TTL, self.clock, share_window_s=WINDOW)
        self.state: dict[str, AdapterState] = {}
        self.size: dict[str, int] = {}
        self.failed: dict[str, tuple[str, float]] = {}
        self.leases: dict[int, list[str]] = {}
        self.tenant_of: dict[int, TenantId] = {}
        self.used_at: dict[str, dict[TenantId, float]] = {}
        self.seen_at: dict[TenantId, float] = {}
        self.uses: dict[str, int] = {}
        self.pins: set[str] = set()
        self.placed_pins: set[str] = set()
        self.desired: set[str] = set()
        self.priority: dict[str, int] = {}
        self.last_use: list[str] = []  # most recent last
        self.inflation = 0
        self.event_state: dict[str, AdapterState] = {}

    @property
    def pinned(self) -> set[str]:
        return self.pins | self.placed_pins

    def holders(self, name: str) -> int:
        return sum(name in held for held in self.leases.values())

    def idle(self) -> set[str]:
        ready = {n for n, s in self.state.items() if s is AdapterState.READY}
        return {n for n in ready if not self.holders(n)} - self.pinned

    def used(self) -> int:
        return sum(self.size.values())

    def touch(self, name: str) -> None:
        self.last_use = [n for n in self.last_use if n != name] + [name]
        weight = min(max(self.uses.get(name, 0), 1), MAX_COUNTED_USES)
        cost = min(self.size[name], self.budget // self.slots)
        self.priority[name] = self.inflation + weight * cost

    def note(self, tenant: TenantId, names) -> None:
        now = self.clock.monotonic()
        for name in names:
            self.used_at.setdefault(name, {})[tenant] = now
            self.seen_at[tenant] = now

    def users(self, name: str) -> set[TenantId]:
        since = self.clock.monotonic() - WINDOW
        return {t for t, at in self.used_at.get(name, {}).items() if at > since}

    def tenants(self) -> set[TenantId]:
        since = self.clock.monotonic() - WINDOW
        return {t for t, at in self.seen_at.items() if at > since}

    def held_by(self, tenant: TenantId, gone: set[str] = frozenset()) -> Amount:
        """Return the amount that counts for a tenant."""
        names = [n for n in self.state if tenant in self.users(n) and n not in self.pinned | gone]
        return Amount(len(names), sum(self.size[n] for n in names))

    def check_shares(self, tenant: TenantId, victims: set[str], names: set[str]) -> None:
        """Assert that no one else has lost what a share protects."""
        tenants = self.tenants() | {tenant}
        pinned = self.pinned & self.state.keys()
        share = Amount(
            (self.slots - len(pinned)) // len(tenants),
            (self.budget - sum(self.size[n] for n in pinned)) // len(tenants),
        )
        if not Amount(len(names), sum(SIZES[n] for n in names)).fits(share):
            return  # wider than a share: served as if there were none
        new = names - self.state.keys()
        own = [n for n in self.state if self.users(n) == {tenant} and n not in self.pinned]
        need = Amount(len(new), sum(SIZES[n] for n in new))
        before = Amount(len(own), sum(self.size[n] for n in own)) + need
        mine = victims & set(own)
        after = before - Amount(len(mine), sum(self.size[n] for n in mine))
        for other in tenants - {tenant}:
            lost = {n for n in victims if other in self.users(n)}
            if not lost:
                continue
            left = self.held_by(other, victims)
            kept = left.slots >= share.slots > 0 or left.nbytes >= share.nbytes
            had_more = not self.held_by(other).fits(share)
            assert kept or (had_more and after.fits(share))

    def in_state(self, *states: AdapterState) -> list[str]:
        return sorted(n for n, s in self.state.items() if s in states)

    def check_answer(
        self, answer, names: set[str], keep: set[str], tenant: TenantId | None = None
    ) -> bool:
        """Verify an answer against the model; whether the room was granted."""
        leaving = {n for n, s in self.state.items() if s is AdapterState.EVICTING}
        new = {n for n in names if n not in self.state}
        needs = new | (names & leaving)
        lack_slots = len(needs) - (self.slots - len(self.state))
        lack_bytes = sum(SIZES[n] for n in needs) - (self.budget - self.used())
        if isinstance(answer, Admitted):
            assert lack_slots <= 0
            assert lack_bytes <= 0
            assert not names & leaving
            assert set(answer.start) == new
            for name in answer.start:
                self.state[name] = AdapterState.FETCHING
                self.size[name] = SIZES[name]
                self.touch(name)
            return True
        assert lack_slots > 0 or lack_bytes > 0 or names & leaving
        lack_slots -= len(leaving)
        lack_bytes -= sum(self.size[n] for n in leaving)
        spare = self.idle() - names - keep
        if isinstance(answer, MustWait):
            everything = sum(self.size[n] for n in spare)
            enough = len(spare) >= lack_slots and everything >= lack_bytes
            guarded = tenant is not None and self.tenants() - {tenant}
            assert guarded or not enough
            idle_or_pinned = self.idle() | (self.pinned & self.state.keys())
            assert tenant is None or idle_or_pinned != self.state.keys(), "it waits for nothing"
            return False
        assert isinstance(answer, MustEvict)
        victims = list(answer.victims)
        assert set(victims) <= spare
        assert len(victims) >= lack_slots
        assert sum(self.size[n] for n in victims) >= lack_bytes
        guarded = tenant is not None and self.tenants() - {tenant}
        if tenant is not None:
            self.check_shares(tenant, set(victims), names)
        for one in victims:
            rest = [n for n in victims if n != one]
            enough = sum(self.size[n] for n in rest) >= lack_bytes
            own = guarded and not self.users(one) - {tenant}
            assert own or len(rest) < lack_slots or not enough, "a victim too many"
        if lack_bytes <= 0 and victims and not guarded:
            order = sorted(
                spare,
                key=lambda n: (n in self.desired, self.priority[n], self.last_use.index(n)),
            )
            assert victims == order[:lack_slots]
        for name in victims:
            self.state[name] = AdapterState.EVICTING
            self.inflation = max(self.inflation, self.priority[name])
        return False

    def expected_refusal(self, names: list[str]):
        for name in names:
            if name in self.failed:
                return AdapterUnsupported if self.failed[name][0] == "u" else AdapterLoadFailed
        pinned_here = self.pinned & self.state.keys()
        sizes = {n: SIZES[n] for n in names} | {n: self.size[n] for n in pinned_here}
        if len(sizes) > self.slots or sum(sizes.values()) > self.budget:
            return AdapterCapacity
        return None

    @rule(names=MIXTURES, tenant=TENANTS)
    def admit(self, names: list[str], tenant: TenantId) -> None:
        wanted = [candidate(n) for n in names]
        refusal = self.expected_refusal(names)
        if refusal is not None:
            with pytest.raises(refusal):
                self.pool.admit(wanted, tenant)
            return
        answer = self.pool.admit(wanted, tenant)
        if not self.check_answer(answer, set(names), keep=set(), tenant=tenant):
            return
        lease = answer.lease
        assert list(lease.digests) == names
        assert lease.id not in self.leases
        self.leases[lease.id] = names
        self.tenant_of[lease.id] = tenant
        self.note(tenant, set(names))
        slots = {r.digest: self.pool.slot_of(r.digest) for r in self.pool.residents()}
        assert list(lease.slots) == [slots[n] for n in names]
        for name in frozenset(c.digest for c in wanted):
            self.uses[name] = self.uses.get(name, 0) + 1
            self.touch(name)

    @rule(name=DIGESTS, gently=st.booleans())
    def prefetch(self, name: str, gently: bool) -> None:
        refusal = self.expected_refusal([name])
        if refusal is not None:
            with pytest.raises(refusal):
                self.pool.admit_prefetch(candidate(name), gently=gently)
            return
        answer = self.pool.admit_prefetch(candidate(name), gently=gently)
        keep = set(self.desired) if gently or name in self.desired else set()
        keep |= {n for n in self.state if gently and self.users(n)}
        self.check_answer(answer, {name}, keep)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from([*sorted(self.leases), 10_000]))
        assert self.pool.release_lease(lease) is (lease in self.leases)
        if lease in self.leases:
            self.note(self.tenant_of[lease], self.leases[lease])
        self.leases.pop(lease, None)
        assert not self.pool.release_lease(lease)

    @precondition(lambda self: self.in_state(AdapterState.FETCHING, AdapterState.ON_HOST))
    @rule(data=st.data())
    def advance_a_load(self, data: st.DataObject) -> None:
        name = data.draw(
            st.sampled_from(self.in_state(AdapterState.FETCHING, AdapterState.ON_HOST))
        )
        if self.state[name] is AdapterState.FETCHING:
            self.pool.fetched(AdapterDigest(name))
            self.state[name] = AdapterState.ON_HOST
        else:
            assert self.pool.writing(AdapterDigest(name)) == self.pool.slot_of(AdapterDigest(name))
            self.state[name] = AdapterState.LOADING

    @precondition(lambda self: self.in_state(AdapterState.LOADING))
    @rule(data=st.data(), found=st.integers(-3, 10))
    def finish_a_load(self, data: st.DataObject, found: int) -> None:
        name = data.draw(st.sampled_from(self.in_state(AdapterState.LOADING)))
        size = SIZES[name] + found
        if self.used() + found > self.budget:
            with pytest.raises(AdapterCapacity, match=str(size)):
                self.pool.loaded(AdapterDigest(name), size)
            return
        self.pool.loaded(AdapterDigest(name), size)
        self.state[name], self.size[name] = AdapterState.READY, size

    @precondition(
        lambda self: self.in_state(
            AdapterState.FETCHING, AdapterState.ON_HOST, AdapterState.LOADING
        )
    )
    @rule(data=st.data(), kind=st.sampled_from([AdapterUnsupported, AdapterLoadFailed]))
    def fail_a_load(self, data: st.DataObject, kind) -> None:
        coming = (AdapterState.FETCHING, AdapterState.ON_HOST, AdapterState.LOADING)
        name = data.draw(st.sampled_from(self.in_state(*coming)))
        for lease, held in tuple(self.leases.items()):
            if name in held:
                self.pool.release_lease(lease)
                self.note(self.tenant_of[lease], held)
                del self.leases[lease]
        self.pool.failed(AdapterDigest(name), kind("broken"))
        self.forget(name)
        until = self.clock.monotonic() + TTL
        self.failed[name] = ("u" if kind is AdapterUnsupported else "l", until)

    @precondition(lambda self: self.in_state(AdapterState.EVICTING))
    @rule(data=st.data())
    def finish_an_eviction(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.in_state(AdapterState.EVICTING)))
        self.pool.evicted(AdapterDigest(name))
        self.forget(name)

    def forget(self, name: str) -> None:
        del self.state[name], self.size[name], self.priority[name]
        self.last_use.remove(name)
        self.used_at.pop(name, None)
        self.uses.pop(name, None)

    @rule(name=DIGESTS)
    def evict(self, name: str) -> None:
        allowed = name in self.idle()
        assert self.pool.evict(AdapterDigest(name)) is allowed
        if allowed:
            self.state[name] = AdapterState.EVICTING
            self.inflation = max(self.inflation, self.priority[name])

    @rule(name=DIGESTS, on=st.booleans())
    def pin(self, name: str, on: bool) -> None:
        (self.pool.pin_adapter if on else self.pool.unpin_adapter)(AdapterDigest(name))
        (self.pins.add if on else self.pins.discard)(name)

    @rule(names=st.sets(DIGESTS, max_size=3), pinned=st.sets(DIGESTS, max_size=2))
    def place(self, names: set[str], pinned: set[str]) -> None:
        self.pool.set_placement(map(AdapterDigest, names), map(AdapterDigest, pinned))
        self.desired, self.placed_pins = names, names & pinned

    @rule(name=DIGESTS)
    def forget_wishes(self, name: str) -> None:
        self.pool.forget_wishes(AdapterDigest(name))
        self.pins.discard(name)
        self.desired, self.placed_pins = self.desired - {name}, self.placed_pins - {name}

    @rule(seconds=st.sampled_from([1.0, TTL / 2, TTL]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        now = self.clock.monotonic()
        self.failed = {n: f for n, f in self.failed.items() if f[1] > now}

    @invariant()
    def books_balance(self) -> None:
        self.pool.check_integrity()
        found = {r.digest: (r.state, r.nbytes, r.leases, r.pinned) for r in self.pool.residents()}
        assert found == {
            n: (s, self.size[n], self.holders(n), n in self.pinned) for n, s in self.state.items()
        }
        assert self.pool.bytes_used == self.used() <= self.budget
        assert set(self.pool.failures()) == set(self.failed)
        for name in SIZES:
            expected = AdapterState.FAILED if name in self.failed else AdapterState.ABSENT
            assert self.pool.state(AdapterDigest(name)) is self.state.get(name, expected)

    @invariant()
    def nothing_in_use_or_pinned_is_leaving(self) -> None:
        for name in self.in_state(AdapterState.EVICTING):
            assert not self.holders(name)

    @invariant()
    def events_follow_the_table_and_tell_the_state(self) -> None:
        for event in self.pool.take_events():
            assert self.event_state.get(event.digest, AdapterState.ABSENT) is event.before
            assert event.after in TRANSITIONS[event.before]
            self.event_state[event.digest] = event.after
        for name in SIZES:
            told = self.event_state.get(name, AdapterState.ABSENT)
            assert told is self.pool.state(AdapterDigest(name))


AdapterPoolMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestAdapterPool = AdapterPoolMachine.TestCase


EVICTABLES = st.lists(
    st.builds(
        Evictable,
        digest=st.uuids().map(lambda u: AdapterDigest(u.hex)),
        room=st.builds(Occupancy, nbytes=st.integers(1, 50), users=st.frozensets(TENANTS)),
        desired=st.booleans(),
        priority=st.integers(0, 5),
        last_use=st.integers(0, 1000),
    ),
    max_size=7,
    unique_by=lambda e: e.last_use,
)


@given(idle=EVICTABLES, slots=st.integers(-1, 5), nbytes=st.integers(-5, 120))
def test_victims_suffice_and_none_is_spare(idle, slots, nbytes):
    victims = choose_victims(eviction_order(idle), slots, nbytes)
    if victims is None:
        assert len(idle) < slots or sum(e.nbytes for e in idle) < nbytes
        return
    assert len(victims) >= slots
    assert sum(v.nbytes for v in victims) >= nbytes
    for victim in victims:
        rest = [v for v in victims if v is not victim]
        assert len(rest) < slots or sum(v.nbytes for v in rest) < nbytes


@given(idle=EVICTABLES, slots=st.integers(0, 5))
def test_with_slots_short_the_undesired_and_least_recent_go_first(idle, slots):
    victims = choose_victims(eviction_order(idle), slots, 0)
    if victims is not None:
        order = sorted(idle, key=lambda e: (e.desired, e.priority, e.last_use))
        assert list(victims) == order[:slots]


@given(
    idle=EVICTABLES,
    tenant=TENANTS,
    need=st.integers(1, 4),
    total=st.integers(7, 12),
    weights=st.lists(st.sampled_from((1.0, 1.0, 0.1, 3.0)), min_size=9, max_size=9),
)
def test_no_tenant_is_pushed_below_its_share(idle, tenant, need, total, weights):
    """All is idle: a tenant that asks for no more than a share is let in, at no one's cost."""
    tenants = frozenset(user for e in idle for user in e.room.users) | {tenant}
    held = {e.digest: e.room for e in idle}
    total_bytes = 10_000
    wanted = Amount(need, need)
    owed = dict(zip(sorted(tenants), weights, strict=False))
    shares = TierShares(held, Amount(total, total_bytes), owed)
    guard = ShareGuard(shares, tenant, wanted, wanted)
    before = {t: sum(t in e.room.users for e in idle) for t in tenants}
    victims = choose_victims(eviction_order(idle), need - (total - len(idle)), 0, guard)
    if victims is None:
        assert guard.too_wide
        return
    for other in tenants - {tenant}:
        lost = sum(other in victim.room.users for victim in victims)
        share = int(total * owed[other] / sum(owed.values()) + 1e-9)
        assert not lost or before[other] - lost >= min(share, before[other])
