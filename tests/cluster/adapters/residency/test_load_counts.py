"""Checks the totals of loads by tier, the bytes on their way, and the age at eviction."""

import asyncio

import pytest

from cluster.domain.work import LoadTotals
from cluster.errors import AdapterError
from tests.support.adapter_rig import acquire, until

BYTES = 10


async def use(rig, names):
    rig.manager.release(await acquire(rig, names))


async def test_loads_are_counted_by_the_tier_they_came_from(make_rig):
    rig = make_rig(slots=1)
    for name in "aba":
        await use(rig, name)
    assert (rig.manager.loads.disk.loads, rig.manager.loads.disk.nbytes) == (2, 2 * BYTES)
    assert (rig.manager.loads.host.loads, rig.manager.loads.host.nbytes) == (1, BYTES)
    named = dict(rig.manager.counters())
    assert (named["adapter_load_count_disk"], named["adapter_load_bytes_host"]) == (2, BYTES)


async def test_a_load_that_finds_its_adapter_in_a_slot_is_none(make_rig):
    rig = make_rig(slots=2)
    for name in "aaa":
        await use(rig, name)
    assert rig.manager.loads.disk.loads == 1
    assert rig.manager.loads.host == LoadTotals()


async def test_the_seconds_are_of_the_load_itself(make_rig):
    rig = make_rig(slots=3, max_parallel_loads=1)
    rig.loader.hold("a")
    first, second = acquire(rig, "a"), acquire(rig, "b")
    await until(lambda: rig.loader.loads["a"] == 1)
    rig.clock.advance(3)  # a's files take 3 s; b waits for its turn
    rig.loader.held["a"].set()
    for task in (first, second):
        rig.manager.release(await task)
    assert rig.manager.loads.disk == LoadTotals(2, 2 * BYTES, 3.0)


async def test_reading_that_began_ahead_counts_whole_and_once(make_rig):
    rig = make_rig(slots=1)
    lease = await acquire(rig, "a")
    rig.loader.hold("b")
    waiting = acquire(rig, "b")
    await until(lambda: rig.loader.loads["b"] == 1)  # a still has the slot
    rig.clock.advance(5)
    rig.manager.release(lease)
    await until(lambda: [one.digest for one in rig.manager.resident()] == ["b"])
    rig.loader.held["b"].set()
    rig.manager.release(await waiting)
    assert rig.manager.loads.disk == LoadTotals(2, 2 * BYTES, 5.0)
    assert rig.manager.loads.host == LoadTotals()


async def test_failed_loads_are_not_counted(make_rig):
    rig = make_rig()
    rig.loader.failing["a"] = AdapterError("refused")
    rig.bank.failing["b"] = RuntimeError("no device")
    for name in "ab":
        with pytest.raises(AdapterError):
            await acquire(rig, name)
    assert rig.manager.loads.disk == rig.manager.loads.host == LoadTotals()
    assert rig.manager.loading_bytes == 0


async def test_what_is_loaded_or_waits_for_room_is_on_its_way(make_rig):
    rig = make_rig(slots=1)
    assert rig.manager.loading_bytes == 0
    rig.loader.hold("a")
    first = acquire(rig, "a")
    others = [acquire(rig, "b"), acquire(rig, "b")]  # no room while a loads
    await until(lambda: rig.loader.loads["a"] == 1)
    await asyncio.sleep(0)
    assert rig.manager.loading_bytes == 2 * BYTES
    rig.loader.held["a"].set()
    rig.manager.release(await first)
    for task in others:
        rig.manager.release(await task)
    assert rig.manager.loading_bytes == 0


async def test_the_age_at_eviction_is_since_the_last_use(make_rig):
    rig = make_rig(slots=2)
    for name in "ab":
        await use(rig, name)
        rig.clock.advance(10)
    await use(rig, "a")
    rig.clock.advance(10)
    assert rig.manager.eviction_age_s == 0
    await use(rig, "c")  # evicts b, last used 20 s ago
    assert rig.manager.eviction_age_s == 20


async def test_what_an_operator_evicts_has_no_age(make_rig):
    rig = make_rig()
    await use(rig, "a")
    rig.clock.advance(100)
    assert await rig.manager.evict_adapter("a")
    assert rig.manager.eviction_age_s == 0
