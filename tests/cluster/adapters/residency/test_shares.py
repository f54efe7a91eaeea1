"""Checks whose adapters make room for whom, on a pool that several tenants share."""

import asyncio
from collections import Counter

import pytest

from cluster.adapters.residency.pool import AdapterPool
from cluster.adapters.residency.queue import Waiter, WaitQueue
from cluster.adapters.residency.residency_types import Admitted, MustEvict, MustWait, SizedVersion
from cluster.domain.ids import AdapterDigest, TenantId
from tests.support.manual_clock import ManualClock

VICTIM, ADVERSARY, THIRD = TenantId("victim"), TenantId("adversary"), TenantId("third")
WINDOW = 60.0


def sized(name: str, nbytes: int = 10) -> SizedVersion:
    return SizedVersion(AdapterDigest(name), name, 8, nbytes)


class RunningClock(ManualClock):
    """Moves on by ``tick`` with every reading."""

    tick = 0.0
    readings = 0

    def monotonic(self) -> float:
        self.readings += 1
        self.advance(self.tick)
        return super().monotonic()


class Rig:
    """A pool whose loads take no time."""

    def __init__(self, slots: int, memory: int = 10_000) -> None:
        self.clock = RunningClock()
        self.weights: dict[TenantId, float] = {}
        self.pool = AdapterPool(
            slots, memory, 30.0, self.clock, share_window_s=WINDOW, weights=self.weights
        )
        self.evicted: list[str] = []

    def ask(self, tenant: TenantId, *names: str, nbytes: int = 10):
        wanted = [sized(name, nbytes) for name in names]
        while True:
            answer = self.pool.admit(wanted, tenant)
            if not isinstance(answer, MustEvict):
                break
            for victim in answer.victims:
                self.pool.evicted(victim)
                self.evicted.append(victim)
        if isinstance(answer, Admitted):
            for digest in answer.start:
                self.pool.fetched(digest)
                self.pool.writing(digest)
                self.pool.loaded(digest, nbytes)
        self.pool.check_integrity()
        return answer

    def use(self, tenant: TenantId, *names: str, nbytes: int = 10) -> bool:
        """Ask and release the lease; return whether it was served."""
        answer = self.ask(tenant, *names, nbytes=nbytes)
        if isinstance(answer, Admitted):
            self.pool.release_lease(answer.lease.id)
        return isinstance(answer, Admitted)

    def here(self, prefix: str) -> set[str]:
        return {r.digest for r in self.pool.residents() if r.digest.startswith(prefix)}


def test_five_hundred_cold_adapters_evict_none_of_another_tenants_share():
    rig = Rig(slots=16)
    hot = [f"v{n}" for n in range(8)]
    for name in hot:
        assert rig.use(VICTIM, name)
    for n in range(500):
        assert rig.use(ADVERSARY, f"a{n}")
        rig.clock.advance(0.1)
        if n % 100 == 0:
            assert rig.use(VICTIM, *hot[:4])
            assert rig.use(VICTIM, *hot[4:])
    assert rig.here("v") == set(hot)
    assert Counter(name[0] for name in rig.evicted) == {"a": 492}


def test_shares_follow_weights_as_they_change():
    rig = Rig(slots=16)
    rig.weights[VICTIM] = 3.0
    hot = [f"v{n}" for n in range(12)]
    for name in hot:
        assert rig.use(VICTIM, name)
    for n in range(50):
        assert rig.use(ADVERSARY, f"a{n}")
    assert rig.here("v") == set(hot)
    rig.weights[ADVERSARY] = 9.0
    for n in range(50, 100):
        assert rig.use(ADVERSARY, f"a{n}")
    assert (len(rig.here("v")), len(rig.here("a"))) == (4, 12)


def test_what_is_above_a_share_is_anybodys():
    rig = Rig(slots=4)
    for n in range(4):
        rig.use(VICTIM, f"v{n}")
    assert [rig.use(ADVERSARY, f"a{n}") for n in range(6)] == [True] * 6
    assert rig.evicted == ["v0", "v1", "a0", "a1", "a2", "a3"]


def test_a_tenant_that_has_gone_keeps_nothing():
    rig = Rig(slots=4)
    rig.use(VICTIM, "v0")
    rig.clock.advance(WINDOW)
    for n in range(8):
        assert rig.use(ADVERSARY, f"a{n}")
    assert rig.here("v") == set()
    assert len(rig.here("a")) == 4


@pytest.mark.parametrize("leased", [False, True])
@pytest.mark.parametrize("left", range(14))
def test_a_use_ends_for_the_whole_of_a_decision(left, leased):
    """Time goes on while one is made."""
    rig = Rig(slots=3)
    for name in ("v0", "v1"):
        rig.use(VICTIM, name)
    rig.clock.advance(WINDOW / 2)
    leases = [rig.ask(THIRD, name).lease for name in (("t0", "v0", "v1") if leased else ("t0",))]
    rig.clock.advance(WINDOW / 2 - left - 0.5)
    rig.clock.tick = 1.0
    if leased:
        assert rig.pool.choose_to_close([sized("a0")], ADVERSARY)
    else:
        assert rig.use(ADVERSARY, "a0")
    for lease in leases:
        rig.pool.release_lease(lease.id)


async def test_who_is_next_is_one_decision_however_many_wait():
    rig = Rig(slots=60)
    for n in range(60):
        rig.ask(VICTIM, f"v{n}")
    queue = WaitQueue(rig.pool, 100)
    futures = [asyncio.get_running_loop().create_future() for _ in range(50)]
    for n, future in enumerate(futures):
        tenant = VICTIM if n == 0 else TenantId(f"t{n % 25}")
        queue.add_request(Waiter((sized(f"a{n}"),), future, tenant))
    rig.clock.readings = 0
    *others, last = queue.requests_in_turn()
    assert rig.clock.readings == 1
    assert last.tenant == VICTIM  # it has more than its share
    assert [waiter.wanted[0].digest for waiter in others] == [f"a{n}" for n in range(1, 50)]


def test_a_lease_that_ends_is_a_use():
    rig = Rig(slots=4)
    lease = rig.ask(VICTIM, "v0").lease
    rig.clock.advance(10 * WINDOW)
    rig.pool.release_lease(lease.id)
    for n in range(8):
        rig.use(ADVERSARY, f"a{n}")
    assert rig.here("v") == {"v0"}


def test_a_flood_in_flight_waits_for_its_own_room():
    rig = Rig(slots=4)
    for n in range(2):
        rig.use(VICTIM, f"v{n}")
    flood = [rig.ask(ADVERSARY, f"a{n}") for n in range(2)]
    assert isinstance(rig.ask(ADVERSARY, "a2"), MustWait)
    wanted = [sized("a2")]
    assert rig.pool.choose_to_close(wanted, ADVERSARY) <= {"a0", "a1"}
    assert not rig.pool.tenants_within_share({ADVERSARY: wanted})
    assert rig.use(VICTIM, "v0", "v1")
    rig.pool.release_lease(flood[0].lease.id)
    assert rig.use(ADVERSARY, "a2")
    assert rig.evicted == ["a0"]


def test_touching_anothers_adapter_takes_none_of_its_protection():
    rig = Rig(slots=4)
    for n in range(2):
        rig.use(VICTIM, f"shared{n}")
        rig.use(ADVERSARY, f"shared{n}")
    for n in range(10):
        assert rig.use(ADVERSARY, f"a{n}")
    assert rig.here("shared") == {"shared0", "shared1"}


def test_a_mixture_wider_than_a_share_is_served():
    rig = Rig(slots=4)
    for n in range(2):
        rig.use(VICTIM, f"v{n}")
    assert rig.use(ADVERSARY, "a0", "a1", "a2")
    assert len(rig.here("v")) == 1


def test_more_tenants_than_slots_take_turns():
    rig = Rig(slots=2)
    for n in range(6):
        assert rig.use(TenantId(f"t{n}"), f"a{n}")


@pytest.mark.parametrize("size", [49, 50, 60])
def test_bytes_are_shared_as_slots_are(size):
    rig = Rig(slots=16, memory=100)
    rig.use(VICTIM, "v0", nbytes=size)
    for n in range(30):
        assert rig.use(ADVERSARY, f"a{n}", nbytes=10)
    assert rig.here("v") == ({"v0"} if size <= 50 else set())


def test_pinned_adapters_are_nobodys_share():
    rig = Rig(slots=5)
    rig.pool.pin_adapter(AdapterDigest("p"))
    rig.use(VICTIM, "p")
    for n in range(2):
        rig.use(VICTIM, f"v{n}")
    for n in range(9):
        assert rig.use(ADVERSARY, f"a{n}")
    assert rig.here("p") | rig.here("v") == {"p", "v0", "v1"}


def test_three_tenants_hold_a_third_each():
    rig = Rig(slots=9)
    for n in range(20):
        for tenant in (VICTIM, ADVERSARY, THIRD):
            assert rig.use(tenant, f"{tenant[0]}{n}")
    assert [len(rig.here(letter)) for letter in "vat"] == [3, 3, 3]
