"""Slots, leases and turns on an event loop; the test decides every step of bank and loader."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.adapters.catalog import AdapterCatalog
from cluster.adapters.residency.manager import AdapterManager
from cluster.config import AdapterConfig
from cluster.domain.ids import AdapterDigest
from cluster.errors import (
    AdapterCapacity,
)
from tests.support.adapter_rig import NAMES, Bank, Loader, acquire, entry, settle, until
from tests.support.manual_clock import ManualClock


async def test_slots_come_in_the_order_asked_and_repeats_share_one(make_rig):
    rig = make_rig(slots=3)
    lease = await acquire(rig, "cab")
    assert rig.holds(lease) == ["c", "a", "b"]
    twice = await acquire(rig, "bab")
    assert rig.holds(twice) == ["b", "a", "b"]
    assert {r.digest: r.leases for r in rig.manager.resident()} == {"a": 2, "b": 2, "c": 1}
    rig.manager.check_integrity()
    for held in (lease, twice):
        rig.manager.release(held)
    assert all(r.leases == 0 for r in rig.manager.resident())


async def test_the_base_alone_needs_no_slot(make_rig):
    rig = make_rig()
    lease = await acquire(rig, "")
    assert lease.slots == ()
    rig.manager.release(lease)


async def test_release_twice_counts_once(make_rig):
    rig = make_rig()
    one, two = await acquire(rig, "a"), await acquire(rig, "a")
    rig.manager.release(one)
    rig.manager.release(one)
    (resident,) = rig.manager.resident()
    assert resident.leases == 1
    rig.manager.release(two)


async def test_many_requests_load_once(make_rig):
    rig = make_rig()
    rig.loader.hold("a")
    tasks = [acquire(rig, "a") for _ in range(20)]
    await until(lambda: rig.loader.loads["a"] == 1)
    rig.manager.check_integrity()
    rig.loader.held["a"].set()
    leases = await asyncio.gather(*tasks)
    assert len({lease.id for lease in leases}) == 20
    assert (rig.loader.loads["a"], rig.bank.writes["a"]) == (1, 1)


async def test_loads_run_in_threads_in_parallel_up_to_the_bound(make_rig):
    rig = make_rig(slots=5, max_parallel_loads=2)
    for name in "abcde":
        rig.loader.hold(name)
    tasks = [acquire(rig, name) for name in "abcde"]
    await until(lambda: rig.loader.now == 2)
    for name in "abcde":
        rig.loader.held[name].set()
    await asyncio.gather(*tasks)
    assert rig.loader.most_at_once == 2
    assert threading.get_ident() not in rig.bank.threads


async def test_a_slow_load_keeps_nobody_else_waiting(make_rig):
    rig = make_rig()
    rig.loader.hold("a")
    slow = acquire(rig, "a")
    await until(lambda: rig.loader.loads["a"] == 1)
    assert rig.holds(await acquire(rig, "b")) == ["b"]
    assert not slow.done()
    rig.loader.held["a"].set()
    await slow


async def test_eviction_takes_the_idle_least_recent_and_clears_its_slot(make_rig):
    rig = make_rig(slots=2)
    for name in "ab":
        rig.manager.release(await acquire(rig, name))
    kept = await acquire(rig, "a")
    lease = await acquire(rig, "c")
    assert rig.holds(lease) == ["c"]
    assert set(rig.state()) == {"a", "c"}
    assert rig.holds(kept) == ["a"]


async def test_waits_eviction_order_of_arrival_when_all_is_leased(make_rig):
    rig = make_rig(slots=1)
    lease = await acquire(rig, "a")
    order: list[str] = []

    async def use(name):
        held = await rig.manager.acquire([AdapterDigest(name)])
        order.append(name)
        rig.manager.release(held)

    tasks = []
    for name in "bcde":
        tasks.append(asyncio.create_task(use(name)))
        await settle()
    assert rig.manager.waiting == 4
    rig.manager.check_integrity()
    rig.manager.release(lease)
    await asyncio.gather(*tasks)
    assert order == list("bcde")


async def test_two_mixtures_never_hold_half_each(make_rig):
    rig = make_rig(slots=3)

    async def use(names):
        for _ in range(10):
            lease = await rig.manager.acquire([AdapterDigest(n) for n in names])
            assert rig.holds(lease) == list(names)
            await asyncio.sleep(0)
            rig.manager.release(lease)

    await asyncio.gather(*(use(n) for n in ("abc", "cde", "efa", "bd", "gh", "fed")))


async def test_resident_adapters_overtake_only_so_often(make_rig):
    rig = make_rig(slots=2, max_overtakes=3)
    long_ones = [await acquire(rig, "a"), await acquire(rig, "b")]
    head = acquire(rig, "c")
    await settle()
    overtakers = [await acquire(rig, "a") for _ in range(3)]
    late_a = acquire(rig, "a")
    late_b = acquire(rig, "b")
    await settle()
    # "b" has fewer leases, so it is the one closed to newcomers.
    assert late_a.done()
    assert not late_b.done()
    assert not head.done()
    rig.manager.release(long_ones[1])
    assert rig.holds(await head) == ["c"]
    assert not late_b.done()
    rig.manager.release(await head)
    assert rig.holds(await late_b) == ["b"]
    for lease in (*overtakers, long_ones[0], await late_a, await late_b):
        rig.manager.release(lease)


async def test_the_base_alone_overtakes_without_being_counted(make_rig):
    rig = make_rig(slots=1, max_overtakes=1)
    long_one, head = await acquire(rig, "a"), acquire(rig, "b")
    await settle()
    for _ in range(5):
        rig.manager.release(await acquire(rig, ""))
    counted, closed_out = acquire(rig, "a"), acquire(rig, "a")
    await settle()
    assert (counted.done(), closed_out.done(), head.done()) == (True, False, False)
    for lease in (long_one, await counted):
        rig.manager.release(lease)
    rig.manager.release(await head)
    await closed_out


async def test_what_ends_while_the_first_waits_is_counted_too(make_rig):
    """Requests that held leases before it came have their turn before it as well."""
    drains: list[frozenset[AdapterDigest]] = []
    rig = make_rig(slots=2, max_overtakes=2, on_close_to_new=drains.append)
    on_a = [await acquire(rig, "a") for _ in range(5)]
    on_b = [await acquire(rig, "b") for _ in range(4)]
    head = acquire(rig, "c")
    await settle()
    rig.manager.release(on_a.pop())
    await settle()
    assert drains == []
    rig.manager.release(on_a.pop())
    await settle()
    assert drains == [frozenset("a")]  # three leases, "b" has four
    late_a, late_b = acquire(rig, "a"), acquire(rig, "b")
    await settle()
    assert (late_a.done(), late_b.done()) == (False, True)
    for lease in on_a:
        rig.manager.release(lease)
    assert rig.holds(await head) == ["c"]
    rig.manager.release(await head)
    await late_a
    assert drains == [frozenset("a")]
    for lease in on_b:
        rig.manager.release(lease)


@settings(max_examples=60, deadline=None)
@given(
    slots=st.integers(1, 3),
    overtakes=st.integers(0, 4),
    hot=st.lists(st.sets(st.integers(0, 2), min_size=1, max_size=2), min_size=3, max_size=20),
    order=st.randoms(use_true_random=False),
)
def test_whoever_waits_first_gets_room_within_the_bound(slots, overtakes, hot, order):
    """Against a flood that never pauses: each lease that ends is asked for again at once."""

    async def scenario():
        config = AdapterConfig(slots=slots, memory_bytes=1000, load_timeout_s=20)
        drains: list[frozenset[AdapterDigest]] = []
        with ThreadPoolExecutor(2) as executor:
            manager = AdapterManager(
                config,
                AdapterCatalog(entry(name) for name in NAMES),
                Bank(),
                Loader(),
                ManualClock(),
                executor,
                on_close_to_new=drains.append,
                max_overtakes=overtakes,
            )

            def ask(digests):
                return asyncio.create_task(manager.acquire(digests))

            mixtures = [[AdapterDigest(NAMES[n]) for n in range(slots)]]  # no slot is left
            mixtures += [sorted({AdapterDigest(NAMES[n % slots]) for n in names}) for names in hot]
            held = await asyncio.gather(*map(ask, mixtures))
            cold = ask([AdapterDigest("h")])
            await settle()
            late, ended = [], 0
            while held and not cold.done() and not manager._dispatcher.tasks:
                closed = drains[-1] if drains else frozenset()
                candidates = [lease for lease in held if closed & set(lease.digests)] or held
                lease = order.choice(candidates)
                held.remove(lease)
                manager.release(lease)
                again = ask(list(lease.digests))
                await settle()
                if again.done():
                    held.append(again.result())
                else:
                    late.append(again)
                ended += 1
                assert ended <= overtakes + len(mixtures)
                manager.check_integrity()
            manager.release(await cold)
            for lease in held:
                manager.release(lease)
            for task in late:
                manager.release(await task)
            await manager.close()
            manager.check_integrity()

    asyncio.run(scenario())


async def test_newcomers_that_need_room_do_not_overtake(make_rig):
    rig = make_rig(slots=2)
    one, two = await acquire(rig, "a"), await acquire(rig, "b")
    wide, narrow = acquire(rig, "cd"), acquire(rig, "e")
    await settle()
    rig.manager.release(one)
    await settle()
    assert not wide.done()
    assert not narrow.done()
    rig.manager.release(two)
    assert rig.holds(await wide) == ["c", "d"]
    rig.manager.release(await wide)
    await narrow


async def test_no_room_in_time_is_a_capacity_error(make_rig):
    rig = make_rig(slots=1, timeout=0.02)
    lease = await acquire(rig, "a")
    with pytest.raises(AdapterCapacity, match=r"no room for B within 0\.02 s"):
        await acquire(rig, "b")
    rig.manager.check_integrity()
    assert rig.manager.waiting == 0
    rig.manager.release(lease)
    await acquire(rig, "b")


async def test_too_many_at_once_is_refused_at_once(make_rig):
    rig = make_rig(slots=2)
    with pytest.raises(AdapterCapacity, match="3 adapters"):
        await acquire(rig, "abc")
    heavy = make_rig(slots=4, memory=25)
    with pytest.raises(AdapterCapacity, match="30 bytes"):
        await acquire(heavy, "abc")


async def test_bytes_bound_as_slots_do(make_rig):
    rig = make_rig(slots=8, memory=25)
    rig.manager.release(await acquire(rig, "ab"))
    await acquire(rig, "c")
    assert len(rig.state()) == 2
    assert rig.manager.bytes_used == 20


async def test_events_tell_every_step(make_rig):
    rig = make_rig(slots=1)
    rig.manager.release(await acquire(rig, "a"))
    rig.manager.release(await acquire(rig, "b"))
    steps = [event.after.value for event in rig.events if event.digest == "a"]
    assert steps == ["fetching", "on_host", "loading", "ready", "evicting", "absent"]
