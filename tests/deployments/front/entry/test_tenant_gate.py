"""Places that tenants share in turn: bounded, fair, and whole after every way to end."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.domain.ids import TenantId
from cluster.errors import Overloaded
from deployments.front.entry.heavy import HeavyWork
from deployments.front.entry.tenant_gate import TenantGate

A, B = TenantId("a"), TenantId("b")


async def test_one_tenant_has_no_more_than_its_share() -> None:
    gate = TenantGate(places=3, per_tenant=2, max_waiting=1, wait_s=0.05)
    await gate.acquire(A)
    await gate.acquire(A)
    with pytest.raises(Overloaded, match="busy"):
        await gate.acquire(A)
    await gate.acquire(B)
    waiting = asyncio.create_task(gate.acquire(B))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="wait already"):
        await gate.acquire(B)
    gate.release(A)
    await waiting
    for tenant in (A, B, B):
        gate.release(tenant)
    assert gate.idle


async def test_tenants_take_turns() -> None:
    gate = TenantGate(places=1, per_tenant=1, max_waiting=9, wait_s=9)
    order: list[str] = []

    async def use(tenant: TenantId) -> None:
        async with gate.place(tenant):
            order.append(tenant)
            await asyncio.sleep(0)

    await asyncio.gather(*(use(tenant) for tenant in (A, A, A, A, B, B)))
    assert order == ["a", "a", "b", "a", "b", "a"]
    assert gate.idle


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4)), max_size=25))
def test_nothing_leaks_whatever_is_cancelled(steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        gate = TenantGate(places=2, per_tenant=1, max_waiting=4, wait_s=9)
        held = 0

        async def use(tenant: str, turns: int) -> None:
            nonlocal held
            async with gate.place(TenantId(tenant)):
                held += 1
                assert held <= 2
                try:
                    for _ in range(turns):
                        await asyncio.sleep(0)
                finally:
                    held -= 1

        tasks: list[asyncio.Task[None]] = []
        for tenant, turns in steps:
            if turns == 4 and tasks:
                tasks[len(tasks) // 2].cancel()
            tasks.append(asyncio.create_task(use(tenant, turns)))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert gate.idle

    asyncio.run(run())


async def test_a_caller_that_leaves_keeps_its_place_until_the_thread_is_free() -> None:
    work = HeavyWork()
    begin, end = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def busy() -> None:
        loop.call_soon_threadsafe(begin.set)
        asyncio.run_coroutine_threadsafe(end.wait(), loop).result(timeout=20)

    leaving = asyncio.create_task(work.run(A, busy))
    await begin.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert not work.idle
    assert await work.run(B, lambda: 7) == 7
    end.set()
    assert await work.run(A, lambda: 8) == 8
    async with asyncio.timeout(20):
        while not work.idle:  # noqa: ASYNC110 - tenants rest
            await asyncio.sleep(0.01)
    work.close()
