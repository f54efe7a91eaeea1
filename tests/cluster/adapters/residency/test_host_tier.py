"""Copies in host memory: loads without the disk, reading ahead, and room that tenants share."""

import asyncio

import pytest

from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import AdapterLoadFailed, AdapterUnsupported
from tests.support.adapter_rig import READY, acquire, settle, until

VICTIM, ADVERSARY = TenantId("victim"), TenantId("adversary")
BYTES = 10  # of every adapter in the bank, packed


async def use(rig, names, tenant=VICTIM):
    lease = await acquire(rig, names, tenant)
    assert rig.holds(lease) == list(names)
    rig.manager.release(lease)


def on_host(rig):
    return {r.digest: r.state for r in rig.manager.on_host()}


def counters(rig):
    """Return the counts of hits, reads and evictions; ``test_load_counts`` has the loads'."""
    found = {name: int(value) for name, value in rig.manager.counters() if value}
    return {name: value for name, value in found.items() if not name.startswith("adapter_load_")}


async def test_what_was_evicted_comes_back_without_the_disk(make_rig):
    rig = make_rig(slots=1)
    for names in "ababa":
        await use(rig, names)
    assert rig.loader.loads == {"a": 1, "b": 1}
    assert rig.bank.writes == {"a": 3, "b": 2}
    assert set(on_host(rig)) == {"a", "b"}
    assert counters(rig) == {
        "adapter_hits_disk": 2,
        "adapter_hits_host": 3,
        "adapter_loads_from_host": 3,
        "adapter_reads_from_disk": 2,
        "adapter_evictions_device": 4,
    }


async def test_hits_are_counted_where_the_request_found_it(make_rig):
    rig = make_rig(slots=2)
    rig.loader.hold("a")
    first, second = acquire(rig, "a"), acquire(rig, "aa")
    await until(lambda: rig.loader.loads["a"] == 1)
    rig.loader.held["a"].set()
    for task in (first, second):
        rig.manager.release(await task)
    assert counters(rig) == {
        "adapter_hits_device": 1,
        "adapter_hits_disk": 1,
        "adapter_reads_from_disk": 1,
    }


async def test_nothing_is_kept_beyond_the_budget(make_rig):
    rig = make_rig(slots=1, host=2 * BYTES)
    for name in "abcd":
        await use(rig, name)
    assert set(on_host(rig)) == {"c", "d"}
    assert rig.manager.host_bytes_used == 2 * BYTES
    assert counters(rig)["adapter_evictions_host"] == 2


@pytest.mark.parametrize("host", [0, BYTES - 1])
async def test_what_does_not_fit_is_read_for_its_load_alone(make_rig, host):
    rig = make_rig(slots=1, host=host)
    for name in "aba":
        await use(rig, name)
    assert rig.loader.loads == {"a": 2, "b": 1}
    assert on_host(rig) == {}


async def test_a_request_that_waits_for_a_slot_is_read_ahead(make_rig):
    rig = make_rig(slots=1)
    lease = await acquire(rig, "a")
    waiting = acquire(rig, "b")
    await until(lambda: on_host(rig).get("b") is AdapterState.ON_HOST)
    assert not waiting.done()
    assert "b" not in rig.state()
    rig.manager.release(lease)
    rig.manager.release(await waiting)
    assert rig.loader.loads["b"] == 1
    assert counters(rig)["adapter_hits_disk"] == 2, "a hit is counted as the request arrives"


async def test_reading_ahead_is_one_at_a_time_in_turn(make_rig):
    rig = make_rig(slots=1)
    lease = await acquire(rig, "a")
    for name in "bcd":
        rig.loader.hold(name)
    waiting = [acquire(rig, name) for name in "bcd"]
    await until(lambda: rig.loader.loads["b"] == 1)
    assert rig.loader.loads["c"] == 0
    for name in "bcd":
        rig.loader.held[name].set()
    await until(lambda: rig.loader.loads["d"] == 1)
    rig.manager.release(lease)
    for task in waiting:
        rig.manager.release(await task)
    assert rig.loader.loads == {"a": 1, "b": 1, "c": 1, "d": 1}


async def test_what_a_waiting_request_needs_is_not_evicted_before_it_gets_there(make_rig):
    rig = make_rig(slots=2, host=2 * BYTES)
    one, two = await acquire(rig, "a"), await acquire(rig, "b")
    waiting = acquire(rig, "c")
    await until(lambda: on_host(rig).get("c") is AdapterState.ON_HOST)
    late = [acquire(rig, name) for name in "defg"]
    await until(lambda: len(on_host(rig)) == 2 and "d" in on_host(rig))
    await settle()
    assert set(on_host(rig)) == {"c", "d"}, "the later ones find no room, and read when it is time"
    for lease in (one, two):
        rig.manager.release(lease)
    for task in (waiting, *late):
        rig.manager.release(await task)
    assert rig.loader.loads["c"] == 1


async def test_a_failed_read_ahead_is_told_by_the_load(make_rig):
    rig = make_rig(slots=1)
    lease = await acquire(rig, "a")
    rig.loader.failing["b"] = AdapterUnsupported("a kind of its own")
    waiting = acquire(rig, "b")
    await until(lambda: rig.loader.loads["b"] == 1)
    await until(lambda: on_host(rig).keys() == {"a"})
    assert not waiting.done()
    rig.manager.release(lease)
    with pytest.raises(AdapterUnsupported, match="of its own"):
        await waiting
    assert rig.loader.loads["b"] == 2
    rig.manager.check_integrity()


async def test_a_load_joins_the_read_that_is_under_way(make_rig):
    rig = make_rig(slots=1)
    rig.loader.hold("b")
    lease = await acquire(rig, "a")
    waiting = acquire(rig, "b")
    await until(lambda: rig.loader.loads["b"] == 1)
    rig.manager.release(lease)
    await until(lambda: rig.state().get("b") is AdapterState.FETCHING)
    rig.loader.held["b"].set()
    rig.manager.release(await waiting)
    assert rig.loader.loads["b"] == 1


async def test_a_request_that_gives_up_lets_its_copy_go(make_rig):
    rig = make_rig(slots=1, host=2 * BYTES)
    lease = await acquire(rig, "a", VICTIM)
    waiting = acquire(rig, "b", VICTIM)
    await until(lambda: on_host(rig).get("b") is AdapterState.ON_HOST)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    rig.manager.release(lease)
    for name in "cd":
        await use(rig, name)
    assert set(on_host(rig)) == {"c", "d"}


async def test_unloading_frees_the_copy_too(make_rig):
    rig = make_rig()
    await use(rig, "ab")
    version = rig.manager.host_version
    assert await rig.manager.evict_adapter(AdapterDigest("a"))
    assert set(on_host(rig)) == {"b"}
    assert rig.manager.host_bytes_used == BYTES
    assert rig.manager.host_version > version
    await use(rig, "a")
    assert rig.loader.loads["a"] == 2


async def test_unloading_waits_for_a_read_that_is_under_way(make_rig):
    rig = make_rig(slots=1)
    rig.loader.hold("b")
    lease = await acquire(rig, "a")
    waiting = acquire(rig, "b")
    await until(lambda: rig.loader.loads["b"] == 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not await rig.manager.evict_adapter(AdapterDigest("b"))
    rig.loader.held["b"].set()
    await until(lambda: on_host(rig).get("b") is AdapterState.ON_HOST)
    assert await rig.manager.evict_adapter(AdapterDigest("b"))
    assert on_host(rig).keys() == {"a"}
    rig.manager.release(lease)


async def test_pins_stay_in_memory(make_rig):
    rig = make_rig(slots=2, host=2 * BYTES)
    rig.manager.pin_adapter(AdapterDigest("a"))
    for name in "bcd":
        await use(rig, name)
    assert set(on_host(rig)) == {"a", "d"}
    rig.manager.unpin_adapter(AdapterDigest("a"))
    for name in "ef":
        await use(rig, name)
    assert set(on_host(rig)) == {"e", "f"}


async def test_reading_for_a_check_keeps_it_where_there_is_room(make_rig):
    rig = make_rig(slots=1, host=2 * BYTES)
    lease = await acquire(rig, "a", VICTIM)
    await rig.manager.read_adapter(AdapterDigest("b"))
    assert set(on_host(rig)) == {"a", "b"}
    assert "b" not in rig.state()
    await rig.manager.read_adapter(AdapterDigest("c"))
    assert set(on_host(rig)) == {"a", "c"}, "what a tenant uses stays, what nobody used goes"
    rig.loader.failing["d"] = OSError("disk")
    with pytest.raises(OSError, match="disk"):
        await rig.manager.read_adapter(AdapterDigest("d"))
    rig.manager.check_integrity()
    rig.manager.release(lease)


async def test_a_flood_of_cold_adapters_pushes_out_only_its_own(make_rig):
    rig = make_rig(slots=2, host=4 * BYTES)
    await use(rig, "a", VICTIM)
    for name in "bcdefgh" * 3:
        await use(rig, name, ADVERSARY)
    assert rig.state()["a"] is READY
    assert "a" in on_host(rig)
    await use(rig, "a", VICTIM)
    assert (rig.loader.loads["a"], rig.bank.writes["a"]) == (1, 1)


async def test_a_tenant_within_its_share_does_not_wait_behind_a_flood(make_rig):
    rig = make_rig(slots=2)
    flood = [acquire(rig, name, ADVERSARY) for name in "bcdefgh"]
    running = [await flood[0], await flood[1]]
    await settle()
    victim = acquire(rig, "a", VICTIM)
    await settle()
    rig.manager.release(running[0])
    held = await victim
    assert rig.holds(held) == ["a"]
    assert sum(task.done() for task in flood) == 2
    rig.manager.release(running[1])
    for task in flood[2:]:
        rig.manager.release(await task)
        rig.manager.check_integrity()
    assert rig.holds(held) == ["a"]
    rig.manager.release(held)


async def test_nobody_starves_beyond_the_share(make_rig):
    """A wide mixture waits for its own tenant's others, and gets its turn."""
    rig = make_rig(slots=4, max_overtakes=2)
    await use(rig, "a", VICTIM)
    hot = [await acquire(rig, "b", ADVERSARY) for _ in range(3)]
    wide = acquire(rig, "cde", ADVERSARY)
    await settle()
    for lease in hot:
        rig.manager.release(lease)
        await use(rig, "a", VICTIM)
    rig.manager.release(await wide)


async def test_an_error_reaches_all_that_joined(make_rig):
    rig = make_rig(slots=3)
    rig.loader.hold("a")
    rig.loader.failing["a"] = OSError("disk")
    tasks = [acquire(rig, "a"), acquire(rig, "ab")]
    await until(lambda: rig.loader.loads["a"] == 1)
    rig.loader.held["a"].set()
    for end in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(end, AdapterLoadFailed)
    await use(rig, "b")
    assert on_host(rig).keys() == {"b"}
