"""The target where Serve does not answer, and where another hand sets it.

Serve's answers are written here: a real one cannot be made to fail between two of its calls.
"""

import asyncio

import pytest

from deployments.controller.serve_target import ServeTarget
from tests.support.written_serve import WrittenServe


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> WrittenServe:
    return WrittenServe(monkeypatch)


async def test_a_first_replica_is_started_only_where_none_is_to_run(serve: WrittenServe) -> None:
    target = ServeTarget("braid")
    await target.start_first()
    assert serve.sets == [], "it is not known yet how many run"
    await target.read()
    await target.start_first()
    await target.set_count(3)  # a look found that more are needed, and none has come since
    await target.start_first()
    assert serve.sets == [1, 3]


async def test_while_serve_is_silent_the_last_word_here_stands(serve: WrittenServe) -> None:
    target = ServeTarget("braid")
    serve.target = 3
    await target.read()
    listed = await target.read_replicas()
    await target.set_count(2)
    serve.silent = True
    assert (await target.read()).target == 2
    assert await target.read_replicas() == listed
    await target.set_count(1)
    assert (await target.read()).target == 1
    serve.silent = False
    assert (await target.read()).target == 1
    await target.set_count(1)
    assert serve.sets == [2, 1]


async def test_what_another_hand_sets_is_seen_once_the_target_is_released(
    serve: WrittenServe,
) -> None:
    target = ServeTarget("braid")
    serve.target = 3
    await target.read()
    await target.set_count(2)
    serve.target = 5
    assert (await target.read()).target == 2
    target.release()
    assert (await target.read()).target == 5


async def test_a_first_replica_is_asked_for_while_the_last_one_is_let_go(
    serve: WrittenServe,
) -> None:
    target = ServeTarget("braid")
    serve.target = 1
    await target.read()
    serve.answering.clear()
    falling = asyncio.create_task(target.set_count(0))
    await asyncio.sleep(0)
    starting = asyncio.create_task(target.start_first())
    await asyncio.sleep(0)
    serve.answering.set()
    await asyncio.gather(falling, starting)
    assert serve.sets == [0, 1]
    assert (await target.read()).target == 1


async def test_a_look_that_began_before_a_first_replica_was_asked_for_does_not_end_it(
    serve: WrittenServe,
) -> None:
    target = ServeTarget("braid")
    await target.read()
    await target.start_first()
    await target.set_count(0)  # as decided from what was read
    assert serve.target == 1
    await target.read()
    await target.set_count(0)
    assert serve.target == 0


async def test_a_first_replica_that_is_asked_for_before_the_count_falls_stays(
    serve: WrittenServe,
) -> None:
    target = ServeTarget("braid")
    serve.target = 1
    await target.read()
    await target.start_first()  # one runs, which cannot be reached any more
    await target.set_count(0)
    assert serve.target == 1
