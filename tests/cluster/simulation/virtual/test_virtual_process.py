"""A function in a virtual thread takes the time that it says, and reads it on its clock."""

import pytest

from cluster.adapters.residency.timed_calls import timed_in_thread
from cluster.simulation.virtual.virtual_loop import VirtualLoop
from cluster.simulation.virtual.virtual_process import VirtualExecutor, VirtualProcess


def test_a_call_in_a_thread_measures_what_it_spends() -> None:
    loop = VirtualLoop()  # type: ignore[abstract] # as the simulator's
    process = VirtualProcess(loop, "r0", 100.0)
    executor = VirtualExecutor(process)

    async def load_twice() -> list[float]:
        calls = [await timed_in_thread(executor, process.clock, executor.spend, 0.25)]
        calls.append(await timed_in_thread(executor, process.clock, executor.spend, 0.5))
        return [seconds for _, seconds in calls]

    task = loop.create_task(load_twice())
    loop.run()
    assert task.result() == [0.25, 0.5]
    assert process.clock.monotonic() == 100.75 == 100.0 + loop.time()


def test_a_call_that_fails_leaves_the_clock_where_it_was() -> None:
    process = VirtualProcess(VirtualLoop(), "r0", 100.0)  # type: ignore[abstract] # as above
    executor = VirtualExecutor(process)

    def fail() -> None:
        executor.spend(1.0)
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        executor.start(fail, ())
    assert process.clock.monotonic() == 100.0
