"""Waits for the first replica, many at a time."""

import asyncio

from cluster.clock import SystemClock
from cluster.waiting.first_replica import FirstReplica
from tests.support.manual_clock import ManualClock


async def test_all_go_on_with_the_first_replica_and_later_ones_wait_for_nothing() -> None:
    ready: list[bool] = []
    first = FirstReplica(lambda: bool(ready), SystemClock(), 30.0)
    waits = [asyncio.create_task(first.wait(30.0)) for _ in range(50)]
    await asyncio.sleep(0)
    assert len(first) == 50
    first.wake()
    assert len(first) == 50
    ready.append(True)
    first.wake()
    assert await asyncio.gather(*waits) == [True] * 50
    assert await first.wait(0.0)
    assert not first
    first.close()


async def test_each_waits_as_long_as_it_can() -> None:
    clock = ManualClock()
    first = FirstReplica(lambda: False, clock, 0.001)
    assert not await first.wait(0.0)
    short, long = (asyncio.create_task(first.wait(seconds)) for seconds in (5.0, 50.0))
    await asyncio.sleep(0)
    clock.advance(10.0)
    assert not await asyncio.wait_for(short, 10)
    assert not long.done()
    clock.advance(50.0)
    assert not await asyncio.wait_for(long, 10)
    assert not first


async def test_a_wait_that_is_given_up_leaves_nothing_and_others_go_on() -> None:
    ready: list[bool] = []
    first = FirstReplica(lambda: bool(ready), SystemClock(), 0.001)
    gone, stays = (asyncio.create_task(first.wait(30.0)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    assert len(first) == 1
    ready.append(True)  # without a call of `wake`
    assert await asyncio.wait_for(stays, 10)


async def test_a_replica_that_leaves_at_once_is_waited_for_again() -> None:
    ready: list[bool] = [True]
    first = FirstReplica(lambda: bool(ready), SystemClock(), 30.0)
    ready.clear()
    waits = asyncio.create_task(first.wait(30.0))
    await asyncio.sleep(0)
    ready.append(True)
    first.wake()
    ready.clear()  # before the waiter runs
    await asyncio.sleep(0.01)
    assert not waits.done()
    ready.append(True)
    first.wake()
    assert await waits
    first.close()


async def test_a_crowd_runs_only_when_there_is_something_for_it() -> None:
    looks = 0

    def ready() -> bool:
        nonlocal looks
        looks += 1
        return False

    first = FirstReplica(ready, SystemClock(), 0.001)
    waits = [asyncio.create_task(first.wait(30.0)) for _ in range(1000)]
    await asyncio.sleep(0)
    asked, began = looks, asyncio.get_running_loop().time()
    await asyncio.sleep(0.05)
    took = asyncio.get_running_loop().time() - began
    assert looks - asked <= took / 0.001 + 2  # one a look, however many wait
    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)
    assert not first
