"""The controller's state in a real server: epochs, the lease, and differences."""

import zlib
from collections.abc import AsyncIterator

import pytest
import redis

from cluster.placement.control.history import Change
from deployments.controller.controller_state import DEMAND, EPOCH, HISTORY, LEASE, LINES_KEPT
from deployments.controller.controller_state import ControllerState as State

pytestmark = [pytest.mark.redis]

NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture
async def state(redis_url: str, empty_redis: redis.Redis) -> AsyncIterator[State]:
    made = State(redis_url)
    yield made
    await made.close()


def line(number: int, kind: str = "evicted") -> Change:
    return Change(float(number), kind, f"line {number}")


async def test_each_life_has_a_higher_epoch_than_any_before(state: State) -> None:
    assert await state.take_epoch(0, last=0) == 1
    assert await state.take_epoch(0, last=0) == 2
    assert await state.take_epoch(17, last=0) == 18, "replicas knew of one that Redis has lost"
    assert await state.take_epoch(0, last=0) == 19


async def test_one_that_was_superseded_waits_for_the_lease_to_end(
    state: State, empty_redis: redis.Redis
) -> None:
    mine = await state.take_epoch(0, last=0)
    theirs = await state.take_epoch(0, last=0)
    assert (mine, theirs) == (1, 2)
    assert await state.take_epoch(2, last=1) is None
    assert 0 < empty_redis.pttl(LEASE) <= 10_000
    empty_redis.delete(LEASE)
    assert await state.take_epoch(2, last=1) == 3


async def test_one_that_holds_the_lease_itself_waits_for_nobody(state: State) -> None:
    assert await state.take_epoch(0, last=0) == 1
    assert await state.take_epoch(5, last=1) == 6


async def test_what_a_lower_epoch_writes_is_refused(state: State, empty_redis: redis.Redis) -> None:
    await state.take_epoch(0, last=0)
    await state.take_epoch(0, last=0)
    assert await state.write(2, {"by": 2}) == 2
    state.add_lines([line(1)])
    assert await state.write(1, {"by": 1}) == 2
    found = await state.load()
    assert found is not None
    assert (found.demand, found.history) == ({"by": 2}, ())
    assert await state.write(2, None) == 2
    found = await state.load()
    assert found is not None
    assert (found.demand, found.history) == ({"by": 2}, (line(1),)), "it waited to be written"


async def test_a_running_controller_restores_the_epoch_of_a_server_that_lost_it(
    state: State, empty_redis: redis.Redis
) -> None:
    for _ in range(4):
        await state.take_epoch(0, last=0)
    empty_redis.flushall()
    assert await state.write(4, None) == 4
    assert empty_redis.get(EPOCH) == b"4"
    assert await state.take_epoch(0, last=0) == 5


async def test_topics_have_room_of_their_own(state: State, empty_redis: redis.Redis) -> None:
    await state.take_epoch(0, last=0)
    state.add_lines([line(0, "replicas")])
    await state.write(1, None)
    for start in range(0, LINES_KEPT + 1000, 500):
        state.add_lines(line(number) for number in range(start, start + 500))
        await state.write(1, None)
    lengths = sorted(empty_redis.llen(key) for key in HISTORY)
    assert lengths == [0, 0, 1, LINES_KEPT]
    found = await state.load()
    assert found is not None
    assert line(0, "replicas") in found.history
    assert line(LINES_KEPT + 999) in found.history


async def test_without_a_server_nothing_is_lost_and_it_says_so() -> None:
    state = State(NOBODY)
    try:
        state.add_lines([line(1)])
        assert await state.take_epoch(0, last=0) is None
        assert await state.load() is None
        assert await state.write(1, {}) is None
        assert state.error is not None
    finally:
        await state.close()


async def test_what_another_release_wrote_does_not_stop_a_controller(
    state: State, empty_redis: redis.Redis
) -> None:
    await state.take_epoch(0, last=0)
    state.add_lines([line(1)])
    await state.write(1, {"by": 1})
    odd = (b"nonsense", b"[1]", b'{"at": 1.0}', b'{"at": 1.0, "kind": "new", "message": ""}')
    extra = b'{"at": 1.0, "kind": "evicted", "message": "", "since": 2}'
    timeless = b'{"at": null, "kind": "evicted", "message": ""}'
    unhashable = b'{"at": 1.0, "kind": [], "message": ""}'
    empty_redis.rpush(HISTORY[0], *odd, extra, timeless, unhashable)
    found = await state.load()
    assert found is not None
    assert (found.demand, found.history) == ({"by": 1}, (line(1),))
    for content in (b"nonsense", zlib.compress(b"nonsense"), zlib.compress(b"[]")):
        empty_redis.set(DEMAND, content)
        found = await state.load()
        assert found is not None
        assert (found.demand, found.history) == (None, (line(1),))
