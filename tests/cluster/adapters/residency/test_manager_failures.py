"""Loads that fail, requests that go away, a manager that closes: all end once and leave nothing."""

import asyncio
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
    AdapterError,
    AdapterLoadFailed,
    AdapterUnsupported,
    ModelNotFound,
)
from tests.support.adapter_rig import NAMES, READY, Bank, Loader, acquire, entry, settle, until
from tests.support.manual_clock import ManualClock


async def test_a_load_that_hangs_is_given_up(make_rig):
    rig = make_rig(timeout=0.02)
    rig.loader.hold("a")
    with pytest.raises(AdapterLoadFailed, match=r"longer than 0\.02 s"):
        await acquire(rig, "a")
    await until(lambda: not rig.state())
    rig.manager.check_integrity()
    await acquire(rig, "b")


async def test_an_acquire_whose_call_fails_leaves_nothing_behind(make_rig):
    failures = [RuntimeError("nobody to tell")]

    def tell(events):
        if failures:
            raise failures.pop()

    rig = make_rig(on_change=tell)
    with pytest.raises(RuntimeError, match="nobody to tell"):
        await acquire(rig, "a")
    assert (rig.manager.waiting, rig.manager.leases) == (0, 0)
    rig.manager.release(await acquire(rig, "a"))


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (AdapterUnsupported("DoRA is not served"), AdapterUnsupported),
        (OSError("disk"), AdapterLoadFailed),
        (MemoryError("none left"), AdapterLoadFailed),
    ],
)
@pytest.mark.parametrize("where", ["loader", "bank"])
async def test_failures_reach_all_who_wait_and_are_remembered(make_rig, where, error, raised):
    rig = make_rig(slots=3)
    getattr(rig, where).failing["a"] = error
    rig.loader.hold("a")
    tasks = [acquire(rig, "a"), acquire(rig, "ab"), acquire(rig, "b")]
    await until(lambda: rig.loader.loads["a"] == 1)
    rig.loader.held["a"].set()
    one, two, three = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(one, raised)
    assert isinstance(two, raised)
    assert rig.holds(three) == ["b"]
    assert {r.digest: r.leases for r in rig.manager.resident()} == {"b": 1}
    assert "garbage" not in rig.bank.slots.values()
    rig.manager.check_integrity()
    with pytest.raises(raised):
        await acquire(rig, "a")
    assert rig.loader.loads["a"] == 1, "a failure is remembered"
    getattr(rig, where).failing.clear()
    rig.clock.advance(30)
    await acquire(rig, "a")


async def test_more_device_bytes_than_promised_and_no_room(make_rig):
    rig = make_rig(slots=2, memory=25)
    lease = await acquire(rig, "a")
    rig.bank.sizes["b"] = 20
    with pytest.raises(AdapterCapacity, match="expected at most 10 device bytes, found 20"):
        await acquire(rig, "b")
    assert rig.manager.bytes_used == 10
    assert rig.holds(lease) == ["a"]


async def test_an_adapter_for_another_base_is_refused_before_it_is_read(make_rig):
    rig = make_rig()

    def required_nbytes(ranks):
        raise ValueError("no site has m.q_proj")

    rig.bank.required_nbytes = required_nbytes
    with pytest.raises(AdapterError, match="A: does not fit the base: no site has"):
        await acquire(rig, "a")
    assert not rig.manager.prefetch(AdapterDigest("a"))
    assert rig.loader.loads["a"] == 0


async def test_an_unknown_version(make_rig):
    rig = make_rig()
    with pytest.raises(ModelNotFound):
        await acquire(rig, "z")
    assert not rig.manager.prefetch(AdapterDigest("z"))


@pytest.mark.parametrize("moment", ["queued", "loading", "granted"])
async def test_a_cancelled_request_holds_nothing(make_rig, moment):
    rig = make_rig(slots=1)
    rig.loader.hold("b")
    other = await acquire(rig, "a") if moment == "queued" else None
    task = acquire(rig, "b")
    await settle()
    if moment != "queued":
        await until(lambda: rig.loader.loads["b"] == 1)
    if moment == "granted":
        rig.loader.held["b"].set()
        await until(lambda: rig.state().get("b") is READY)
    cancelled = task.cancel()
    assert cancelled or moment == "granted"
    result = (await asyncio.gather(task, return_exceptions=True))[0]
    if not isinstance(result, asyncio.CancelledError):
        rig.manager.release(result)
    rig.loader.held["b"].set()
    if other is not None:
        rig.manager.release(other)
    await until(lambda: rig.manager.leases == 0)
    rig.manager.check_integrity()
    rig.manager.release(await acquire(rig, "c"))


async def test_cancelling_as_the_lease_is_granted_holds_nothing(make_rig):
    rig = make_rig(slots=1)
    held = await acquire(rig, "a")
    task = acquire(rig, "a")
    other = acquire(rig, "b")
    await settle()
    rig.manager.release(held)
    rig.manager.release(await task)
    await other
    again = acquire(rig, "a")
    await settle()
    rig.manager.release(await other)  # "again" is admitted now; its load is under way
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)
    assert rig.manager.leases == 0
    rig.manager.check_integrity()


async def test_close_ends_all_waiting(make_rig):
    rig = make_rig(slots=1)
    rig.loader.hold("a")
    loading, queued = acquire(rig, "a"), acquire(rig, "b")
    await until(lambda: rig.loader.loads["a"] == 1)
    closing = asyncio.create_task(rig.manager.close())
    await settle()
    rig.loader.held["a"].set()
    await closing
    for task in (loading, queued):
        with pytest.raises(AdapterLoadFailed, match="closing"):
            await task
    with pytest.raises(AdapterLoadFailed, match="closed"):
        await acquire(rig, "a")
    assert not rig.manager.prefetch(AdapterDigest("a"))


REQUESTS = st.lists(
    st.tuples(
        st.text(NAMES, max_size=3),
        st.integers(0, 3),  # how many turns of the loop it keeps its lease
        st.sampled_from(["run", "run", "run", "cancel"]),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(
    requests=REQUESTS,
    slots=st.integers(1, 4),
    broken=st.sets(st.sampled_from(NAMES), max_size=2),
    overtakes=st.integers(0, 3),
)
def test_every_request_ends_once_and_leaves_nothing(requests, slots, broken, overtakes):
    async def scenario():
        bank, loader, clock = Bank(), Loader(), ManualClock()
        loader.failing = {name: OSError("broken") for name in broken}
        config = AdapterConfig(slots=slots, memory_bytes=1000, load_timeout_s=20)
        with ThreadPoolExecutor(2) as executor:
            manager = AdapterManager(
                config,
                AdapterCatalog(entry(name) for name in NAMES),
                bank,
                loader,
                clock,
                executor,
                max_overtakes=overtakes,
            )

            async def use(names, turns):
                lease = await manager.acquire([AdapterDigest(n) for n in names])
                try:
                    for _ in range(turns + 1):
                        assert [bank.slots[slot] for slot in lease.slots] == list(names)
                        manager.check_integrity()
                        await asyncio.sleep(0)
                finally:
                    manager.release(lease)
                return "served"

            tasks = []
            for index, (names, turns, fate) in enumerate(requests):
                tasks.append(asyncio.create_task(use(names, turns)))
                if fate == "cancel":
                    await asyncio.sleep(0)
                    tasks[index].cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            for (names, _, fate), end in zip(requests, ends, strict=True):
                if isinstance(end, asyncio.CancelledError):
                    assert fate == "cancel"
                elif len(set(names)) > slots or set(names) & broken:
                    assert isinstance(end, AdapterCapacity | AdapterLoadFailed)
                else:
                    assert end == "served"
            await manager.close()
            manager.check_integrity()
            assert (manager.leases, manager.waiting) == (0, 0)

    asyncio.run(scenario())
