"""Checks what is loaded without a request: prefetches, pins, placements, and taking them back."""

import asyncio

import pytest

from cluster.domain.ids import AdapterDigest
from cluster.domain.plan_version import PlanVersion
from cluster.errors import (
    AdapterCapacity,
    AdapterUnsupported,
    ModelNotFound,
)
from tests.support.adapter_rig import READY, acquire, settle, until


async def test_prefetch_loads_without_a_lease(make_rig):
    rig = make_rig()
    assert rig.manager.prefetch(AdapterDigest("a"))
    await until(lambda: rig.state().get("a") is READY)
    assert rig.manager.leases == 0
    await acquire(rig, "a")
    assert rig.loader.loads["a"] == 1


async def test_prefetch_shuts_nobody_out(make_rig):
    rig = make_rig(slots=1)
    lease = await acquire(rig, "a")
    assert not rig.manager.prefetch(AdapterDigest("b"))
    waiting = acquire(rig, "c")
    await settle()
    assert rig.manager.prefetch(AdapterDigest("d")), "it waits behind the requests"
    assert rig.manager.prefetch(AdapterDigest("d"))
    rig.manager.release(lease)
    assert rig.holds(await waiting) == ["c"]
    assert rig.loader.loads["d"] == 0


async def test_a_failed_prefetch_is_silent_and_remembered(make_rig):
    rig = make_rig()
    rig.loader.failing["a"] = OSError("disk")
    assert rig.manager.prefetch(AdapterDigest("a"))
    await until(lambda: rig.loader.loads["a"] == 1 and not rig.state())
    assert not rig.manager.prefetch(AdapterDigest("a"))


async def test_pins_survive_pressure(make_rig):
    rig = make_rig(slots=2)
    assert rig.manager.pin_adapter(AdapterDigest("a"))
    for name in "bcd":
        rig.manager.release(await acquire(rig, name))
    assert "a" in rig.state()
    with pytest.raises(AdapterCapacity, match="pinned"):
        await acquire(rig, "bc")
    rig.manager.unpin_adapter(AdapterDigest("a"))
    rig.manager.release(await acquire(rig, "bc"))
    assert set(rig.state()) == {"b", "c"}


async def test_placement_brings_in_and_lets_go(make_rig):
    rig = make_rig(slots=3)
    ack = await rig.manager.apply_placement(
        [AdapterDigest("a"), AdapterDigest("b")], PlanVersion(1, 1)
    )
    assert (ack.version, ack.loaded, ack.failed, ack.evicted) == (
        PlanVersion(1, 1),
        ("a", "b"),
        (),
        (),
    )
    rig.manager.release(await acquire(rig, "c"))
    ack = await rig.manager.apply_placement(
        [AdapterDigest("b"), AdapterDigest("d")], PlanVersion(1, 2)
    )
    assert ack.loaded == ("b", "d")
    assert ack.evicted == ("a",)
    assert set(rig.state()) == {"b", "c", "d"}, "what demand brought in stays"
    assert rig.manager.desired == ({"b", "d"}, PlanVersion(1, 2))


async def test_placement_never_takes_what_is_leased(make_rig):
    rig = make_rig(slots=2)
    await rig.manager.apply_placement([AdapterDigest("a")], PlanVersion(1, 1))
    lease = await acquire(rig, "a")
    ack = await rig.manager.apply_placement(
        [AdapterDigest("b"), AdapterDigest("c")], PlanVersion(1, 2)
    )
    assert rig.holds(lease) == ["a"]
    assert ack.loaded == ("b",)
    assert [(d, code) for d, code, _ in ack.failed] == [("c", "adapter_capacity")]
    rig.manager.release(lease)
    ack = await rig.manager.apply_placement(
        [AdapterDigest("b"), AdapterDigest("c")], PlanVersion(1, 2)
    )
    assert (ack.loaded, ack.failed, ack.evicted) == (("b", "c"), (), ("a",))


async def test_a_placement_too_large_keeps_its_most_wanted(make_rig):
    rig = make_rig(slots=1)
    ack = await rig.manager.apply_placement(
        [AdapterDigest("a"), AdapterDigest("b")], PlanVersion(1, 1)
    )
    assert ack.loaded == ("a",)
    assert [(d, code) for d, code, _ in ack.failed] == [("b", "adapter_capacity")]
    assert rig.bank.writes == {"a": 1}


async def test_placement_reports_failures_and_unknown_versions(make_rig):
    rig = make_rig(slots=3)
    rig.loader.failing["a"] = AdapterUnsupported("DoRA")
    ack = await rig.manager.apply_placement([AdapterDigest(n) for n in "azb"], PlanVersion(1, 5))
    assert ack.loaded == ("b",)
    assert ack.failed[0] == ("a", "adapter_unsupported", "DoRA")
    assert ack.failed[1][:2] == ("z", "model_not_found")


async def test_a_stale_placement_changes_nothing(make_rig):
    rig = make_rig(slots=3)
    await rig.manager.apply_placement([AdapterDigest("a")], PlanVersion(1, 7))
    ack = await rig.manager.apply_placement([AdapterDigest("b")], PlanVersion(1, 6))
    assert (ack.version, ack.loaded) == (PlanVersion(1, 7), ())
    assert set(rig.state()) == {"a"}


async def test_a_controller_of_a_lower_epoch_is_refused_whatever_its_version(make_rig):
    rig = make_rig(slots=3)
    await rig.manager.apply_placement([AdapterDigest("a")], PlanVersion(2, 1))
    ack = await rig.manager.apply_placement([AdapterDigest("b")], PlanVersion(1, 99))
    assert ack.version == PlanVersion(2, 1)
    assert rig.manager.desired == ({"a"}, PlanVersion(2, 1))
    ack = await rig.manager.apply_placement([AdapterDigest("c")], PlanVersion(3, 1))
    assert (ack.version, ack.loaded) == (PlanVersion(3, 1), ("c",))


async def test_a_placements_pins_are_not_evicted_and_are_named_where_they_leave_no_room(make_rig):
    rig = make_rig(slots=2)
    both = [AdapterDigest("a"), AdapterDigest("b")]
    await rig.manager.apply_placement(both, PlanVersion(1, 1), both)
    with pytest.raises(AdapterCapacity, match=r"3 adapters, pinned A, B included, .* 2 slots"):
        await acquire(rig, "c")
    assert set(rig.state()) == {"a", "b"}
    await rig.manager.apply_placement(both, PlanVersion(1, 2), both[:1])
    rig.manager.release(await acquire(rig, "c"))
    assert set(rig.state()) == {"a", "c"}, "desired alone yields to a request"


async def test_what_a_placement_keeps_is_spared_and_not_loaded(make_rig):
    rig = make_rig(slots=2)
    rig.manager.release(await acquire(rig, "a"))
    kept = [AdapterDigest("a"), AdapterDigest("z"), AdapterDigest("b")]
    ack = await rig.manager.apply_placement(kept, PlanVersion(1, 1), (), kept)
    assert (ack.loaded, ack.failed) == (("a",), ())
    for name in "cd":
        rig.manager.release(await acquire(rig, name))
    assert set(rig.state()) == {"a", "d"}


async def test_an_empty_placement_evicts_nothing(make_rig):
    rig = make_rig(slots=3)
    await rig.manager.apply_placement([AdapterDigest("a"), AdapterDigest("b")], PlanVersion(1, 1))
    ack = await rig.manager.apply_placement([], PlanVersion(1, 2))
    assert (ack.loaded, ack.failed, ack.evicted) == ((), (), ())
    assert set(rig.state()) == {"a", "b"}


async def test_demand_evicts_outside_the_placement_first(make_rig):
    rig = make_rig(slots=2)
    await rig.manager.apply_placement([AdapterDigest("a")], PlanVersion(1, 1))
    rig.manager.release(await acquire(rig, "b"))
    rig.manager.release(await acquire(rig, "c"))
    assert set(rig.state()) == {"a", "c"}


async def test_loading_without_a_lease_says_what_came_of_it(make_rig):
    rig = make_rig(slots=1)
    await rig.manager.load_adapter(AdapterDigest("a"))
    assert rig.state() == {"a": READY}
    await rig.manager.load_adapter(AdapterDigest("a"))
    assert rig.bank.writes["a"] == 1
    lease = await acquire(rig, "a")
    with pytest.raises(AdapterCapacity):
        await rig.manager.load_adapter(AdapterDigest("b"))
    rig.manager.release(lease)
    with pytest.raises(AdapterCapacity):
        await rig.manager.load_adapter(AdapterDigest("b"))  # a tenant has used "a" just now
    rig.clock.advance(60)
    rig.loader.failing["c"] = AdapterUnsupported("a kind of its own")
    with pytest.raises(AdapterUnsupported, match="of its own"):
        await rig.manager.load_adapter(AdapterDigest("c"))
    with pytest.raises(ModelNotFound):
        await rig.manager.load_adapter(AdapterDigest("unknown"))


async def test_unloading_waits_for_leases_and_undoes_wishes(make_rig):
    rig = make_rig()
    rig.manager.pin_adapter(AdapterDigest("a"))
    await rig.manager.apply_placement([AdapterDigest("a")], PlanVersion(1, 1))
    lease = await acquire(rig, "a")
    assert not await rig.manager.evict_adapter(AdapterDigest("a"))
    assert rig.holds(lease) == ["a"]
    rig.manager.release(lease)
    used = rig.manager.bytes_used
    assert await rig.manager.evict_adapter(AdapterDigest("a"))
    assert (rig.state(), rig.bank.slots) == ({}, {})
    assert rig.manager.bytes_used == used - 10
    assert rig.manager.desired == (frozenset(), PlanVersion(1, 1))
    assert await rig.manager.evict_adapter(AdapterDigest("a")), "again is fine"
    lease = await acquire(rig, "a")
    assert rig.bank.writes["a"] == 2
    rig.manager.release(lease)


async def test_unloading_does_not_cut_into_a_load(make_rig):
    rig = make_rig()
    rig.loader.hold("a")
    loading = asyncio.create_task(rig.manager.load_adapter(AdapterDigest("a")))
    await settle()
    assert not await rig.manager.evict_adapter(AdapterDigest("a"))
    rig.loader.held["a"].set()
    await loading
    assert await rig.manager.evict_adapter(AdapterDigest("a"))
