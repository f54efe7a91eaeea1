"""Tasks live until they end, and end with their owner."""

import asyncio
import gc

from cluster.tasks import Tasks


async def test_a_task_that_nothing_else_refers_to_runs_to_its_end() -> None:
    tasks, done = Tasks(), []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append(1)

    tasks.start(work())
    gc.collect()
    await tasks.wait(20)
    assert done == [1]
    assert len(tasks) == 0


async def test_cancelling_waits_until_all_have_ended() -> None:
    tasks, ended = Tasks(), []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    async def failing() -> None:
        raise RuntimeError("its own affair")

    tasks.start(work("a"))
    tasks.start(work("b"))
    tasks.start(failing())
    await asyncio.sleep(0)
    await tasks.cancel()
    assert (sorted(ended), len(tasks)) == (["a", "b"], 0)
    await tasks.cancel()


async def test_waiting_ends_in_time() -> None:
    tasks = Tasks()
    tasks.start(asyncio.Event().wait())
    await tasks.wait(0.001)
    assert len(tasks) == 1
    await tasks.cancel()
