"""Checks requests on their way to the engine: waiting for adapters, yielding, deadlines, ends."""

import asyncio
import contextlib

import pytest

from cluster.domain.ids import AdapterDigest, RequestId
from cluster.domain.request import FinishReason
from cluster.errors import Overloaded


async def test_a_request_that_waits_for_a_slot_holds_up_nobody(make_rig):
    rig = make_rig(slots=2, batch=4, max_overtakes=100)
    running = [rig.submit("a"), rig.submit("b")]
    await rig.until(lambda: rig.in_engine() == 2)
    cold = rig.submit("c")
    others = [rig.submit("a"), rig.submit("b"), rig.submit("ab"), rig.submit("")]
    await rig.until(lambda: rig.in_engine() == 6)
    assert rig.book.waiting_for_admission == 1
    rig.runner.gate.release(100_000)
    for name in (*running, *others, cold):
        assert (await rig.end(name)).finish_reason is FinishReason.LENGTH


async def test_a_loading_adapter_holds_up_nobody(make_rig):
    rig = make_rig(batch=4)
    rig.held.add("a")
    slow, quick = rig.submit("a"), rig.submit("b")
    rig.runner.gate.release(100_000)
    assert (await rig.end(quick)).finish_reason is FinishReason.LENGTH
    assert rig.end_of(slow) is None
    rig.may_load.set()
    assert (await rig.end(slow)).finish_reason is FinishReason.LENGTH


async def test_queued_requests_give_way_to_one_that_waits_long(make_rig):
    """A flood over the only slots cannot keep another tenant's adapter out."""
    rig = make_rig(slots=1, max_overtakes=2)
    flood = [rig.submit("a", "flood") for _ in range(8)]
    await rig.until(lambda: rig.in_engine() == 8)
    cold = rig.submit("b", "quiet")
    await rig.until(lambda: rig.manager.waiting == 1)
    assert rig.in_engine() == 8
    rig.compute(9)  # two requests of four tokens, and the first of the third
    await rig.until(lambda: rig.in_engine() == 1)
    assert [name for name in flood if rig.end_of(name)] == flood[:2]
    assert rig.book.waiting_for_admission == 6
    for _ in range(7):  # what has begun continues to its end, and then it is the other's turn
        rig.runner.gate.release()
    assert (await rig.end(cold)).finish_reason is FinishReason.LENGTH
    assert [name for name in flood if rig.end_of(name)] == flood[:3]
    rig.runner.gate.release(100_000)
    for name in flood:
        assert (await rig.end(name)).finish_reason is FinishReason.LENGTH
        assert len(rig.chunks[name]) == 4
    assert rig.book.counters.requests_arrived == 9


async def test_requests_that_gave_way_can_be_cancelled(make_rig):
    rig = make_rig(slots=1, max_overtakes=0)
    running, queued = rig.submit("a"), rig.submit("a")
    await rig.until(lambda: rig.in_engine() == 2)
    cold = rig.submit("b")
    await rig.until(lambda: rig.in_engine() == 1)
    rig.book.cancel(RequestId(queued))
    assert rig.end_of(queued).finish_reason is FinishReason.CANCELLED
    rig.runner.gate.release(100_000)
    for name in (running, cold):
        assert (await rig.end(name)).finish_reason is FinishReason.LENGTH


async def test_a_deadline_counts_while_it_waits_for_a_slot(make_rig):
    rig = make_rig(slots=1, max_overtakes=100)
    running = rig.submit("a")
    await rig.until(lambda: rig.in_engine() == 1)
    late = rig.submit("b", deadline_in=0.01)
    end = await rig.end(late)
    assert end.finish_reason is FinishReason.DEADLINE
    assert (end.error_code, end.usage.completion_tokens) == (None, 0)
    assert rig.manager.waiting == 0
    rig.runner.gate.release(100)
    assert (await rig.end(running)).finish_reason is FinishReason.LENGTH


async def test_a_deadline_counts_while_its_adapter_is_loaded(make_rig):
    rig = make_rig()
    rig.held.add("a")
    late = rig.submit("a", deadline_in=0.01)
    assert (await rig.end(late)).finish_reason is FinishReason.DEADLINE
    assert rig.manager.leases == 0


@pytest.mark.parametrize("turns", [0, 1, 3], ids=["at once", "soon", "later"])
async def test_cancelled_while_it_waits_for_a_slot(make_rig, turns):
    rig = make_rig(slots=1, max_overtakes=100)
    rig.submit("a")
    await rig.until(lambda: rig.in_engine() == 1)
    gone = rig.submit("b")
    for _ in range(turns):
        await asyncio.sleep(0)
    rig.book.cancel(RequestId(gone))
    assert rig.end_of(gone).finish_reason is FinishReason.CANCELLED
    rig.book.cancel(RequestId(gone))
    assert len(rig.chunks[gone]) == 1
    assert rig.book.counters.requests_cancelled == 1


@pytest.mark.parametrize("turns", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("what", ["read", "_acquire"])
async def test_a_cancellation_that_is_swallowed_leaves_nothing_behind(make_rig, what, turns):
    """As ``asyncio.wait_for`` does before Python 3.12, when what it waits for is just done."""
    rig = make_rig()
    owner = rig.book._decisions._reader if what == "read" else rig.book._leases
    honest = getattr(owner, what)

    async def swallowing(*arguments):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return await honest(*arguments)

    setattr(owner, what, swallowing)
    gone, other = rig.submit("ab"), rig.submit("a")
    for _ in range(turns):
        await asyncio.sleep(0)
    rig.book.cancel(RequestId(gone))
    rig.runner.gate.release(100_000)
    assert (await rig.end(other)).finish_reason is FinishReason.LENGTH
    await rig.until(lambda: rig.in_engine() == 0)
    await asyncio.sleep(0.01)
    assert (await rig.end(gone)).finish_reason is FinishReason.CANCELLED
    assert rig.book.waiting_for_admission == 0
    rig.book.check_integrity()
    await rig.until(lambda: rig.manager.leases == 0)


async def test_mixtures_take_their_slots_at_once(make_rig):
    rig = make_rig(slots=3, batch=2)
    rig.runner.gate.release(100_000)
    mixtures = ("abc", "cde", "efa", "bd", "gh", "fed", "abc", "hga")
    names = [rig.submit(mixture, tenant) for mixture in mixtures for tenant in "st"]
    for name in names:
        assert (await rig.end(name)).finish_reason is FinishReason.LENGTH


async def test_a_full_house_takes_only_whoever_has_less_than_a_share(make_rig):
    rig = make_rig(slots=1, max_overtakes=100, max_waiting=4)
    rig.submit("a")
    await rig.until(lambda: rig.in_engine() == 1)
    for _ in range(4):
        rig.submit("b", "flood")
    refused = rig.end_of(rig.submit("b", "flood"))
    assert refused.finish_reason is FinishReason.ERROR
    assert refused.error_code == Overloaded.code
    assert rig.end_of(rig.submit("b", "quiet")) is None
    assert rig.end_of(rig.submit("b", "quiet")) is None
    assert rig.end_of(rig.submit("b", "quiet")).error_code == Overloaded.code
    assert rig.book.waiting_for_admission == 6


