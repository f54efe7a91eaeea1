"""Checks requests that leave the engine before they end, and those whose replica cannot go on."""

import asyncio

import pytest

from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, RequestId
from cluster.domain.request import FinishReason
from cluster.errors import ReplicaLost

PROMPT = 9


async def with_a_row_that_yielded(make_rig, **options):
    """Return a rig, and a light tenant's request over "b" that yielded its row to a heavy one."""
    rig = make_rig(slots=2, batch=2, max_overtakes=2, **options)
    stays = rig.submit("a", "light", max_tokens=16, prompt=[1] * PROMPT)
    yields = rig.submit("b", "light", max_tokens=16, prompt=[2] * PROMPT)
    for name in (stays, yields):
        await rig.step(name, 1)
    rig.submit("a", "heavy", max_tokens=16, weight=9.0, prompt=[3] * PROMPT)
    await rig.until(lambda: rig.in_engine() == 3)
    rig.runner.gate.release()
    await rig.until(lambda: rig.engine.stats().preemptions == 1)
    return rig, yields


async def test_a_row_that_yielded_gives_its_slot_to_one_that_waits_long(make_rig):
    rig, yielded = await with_a_row_that_yielded(make_rig)
    cold = rig.submit("c", "third", max_tokens=2, prompt=[4] * PROMPT)
    await rig.until(lambda: rig.manager.waiting == 1)
    for number in (5, 6, 7):  # more of the heavy tenant's overtake it
        rig.submit("a", "heavy", weight=9.0, prompt=[number] * PROMPT)
    await rig.until(lambda: rig.in_engine() == 6)
    rig.runner.gate.release(2)
    await rig.until(lambda: rig.book._live[RequestId(cold)].in_engine)
    assert rig.end_of(yielded) is None
    rig.runner.gate.release(100_000)
    end = await rig.end(yielded)
    assert (await rig.end(cold)).finish_reason is FinishReason.LENGTH
    assert end.finish_reason is FinishReason.LENGTH
    tokens = [token for chunk in rig.chunks[yielded] for token in chunk.token_ids]
    assert tokens == [100 + n for n in range(16)]
    usage = end.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (PROMPT, 16)
    assert usage.cached_tokens == 0, "those found later are its own"
    await rig.until(lambda: not rig.book._live)
    counters = rig.engine.stats().counters
    assert counters.returned == 1
    assert counters.prompt_tokens == 7 * PROMPT


@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_a_row_that_is_asked_back_can_be_cancelled(make_rig, steps):
    rig, yielded = await with_a_row_that_yielded(make_rig)
    rig.book.yield_leases(frozenset({AdapterDigest("b")}))
    for _ in range(steps):
        rig.runner.gate.release()
        await asyncio.sleep(0.01)
    rig.book.cancel(RequestId(yielded))
    rig.runner.gate.release(100_000)
    assert (await rig.end(yielded)).finish_reason is FinishReason.CANCELLED


async def test_a_row_that_runs_is_asked_back_once_it_yields(make_rig):
    rig = make_rig(slots=2, batch=2)
    first = rig.submit("a", "light", max_tokens=16)
    second = rig.submit("b", "light", max_tokens=16, prompt=[2] * PROMPT)
    for name in (first, second):
        await rig.step(name, 1)
    rig.book.yield_leases(frozenset({AdapterDigest("b")}))
    rig.runner.gate.release()
    rig.submit("a", "heavy", weight=9.0)
    await rig.until(lambda: rig.in_engine() == 3)
    rig.runner.gate.release()
    await rig.until(lambda: rig.engine.stats().counters.returned == 1)
    rig.runner.gate.release(100_000)
    assert (await rig.end(second)).usage.completion_tokens == 16
    assert (await rig.end(first)).usage.completion_tokens == 16


async def test_the_wait_of_a_request_that_gave_way_is_told_in_full(make_rig):
    rig = make_rig(slots=1, max_overtakes=0)
    rig.submit("a")
    await rig.until(lambda: rig.in_engine() == 1)
    gave_way = rig.submit("a")
    await rig.until(lambda: rig.in_engine() == 2)
    rig.clock.advance(2.0)
    cold = rig.submit("b")
    await rig.until(lambda: rig.in_engine() == 1)
    rig.clock.advance(3.0)
    rig.runner.gate.release(100_000)
    assert (await rig.end(cold)).usage.queued_s == 3.0
    assert (await rig.end(gave_way)).usage.queued_s == 5.0


async def test_a_request_that_gave_way_and_is_refused_is_for_another_replica(make_rig):
    rig = make_rig(slots=1, max_overtakes=0, max_queued=1)
    rig.submit("a")
    await rig.until(lambda: rig.engine.stats().running == 1)
    gave_way = rig.submit("a")
    await rig.until(lambda: rig.in_engine() == 2)
    cold = rig.submit("b", "other")
    await rig.until(lambda: rig.in_engine() == 1)
    rig.submit("")
    await rig.until(lambda: rig.in_engine() == 2)
    rig.book.cancel(RequestId(cold))
    end = await rig.end(gave_way)
    assert (end.finish_reason, end.error_code) == (FinishReason.ERROR, ReplicaLost.code)


async def test_an_engine_that_stops_leaves_requests_to_another_replica(make_rig):
    rig = make_rig()
    assert await asyncio.to_thread(rig.engine.stop, drain=False, timeout_s=20)
    end = await rig.end(rig.submit("a"))
    assert (end.finish_reason, end.error_code) == (FinishReason.ERROR, ReplicaLost.code)


async def test_an_end_that_fails_keeps_nothing_from_the_others(make_rig):
    failures = []

    def tell(events):
        if failures and any(event.after is AdapterState.EVICTING for event in events):
            raise failures.pop()

    rig = make_rig(slots=1, batch=2, max_overtakes=100, on_change=tell)
    short, long = rig.submit("a", max_tokens=2), rig.submit("", max_tokens=6)
    await rig.until(lambda: rig.in_engine() == 2)
    waits = rig.submit("b")
    await rig.until(lambda: rig.manager.waiting == 1)
    failures.append(RuntimeError("nobody to tell"))
    rig.runner.gate.release(100_000)
    for name in (short, long, waits):
        assert (await rig.end(name)).finish_reason is FinishReason.LENGTH
    assert not failures
    tokens = [token for chunk in rig.chunks[long] for token in chunk.token_ids]
    assert tokens == [100 + n for n in range(6)]
