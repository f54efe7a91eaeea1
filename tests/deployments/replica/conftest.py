"""Replicas' requests for all tests of this folder."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.request_rig import Rig


@pytest.fixture
async def make_rig() -> AsyncIterator[Callable[..., Rig]]:
    made: list[Rig] = []
    with ThreadPoolExecutor(4) as executor:

        def make(**options) -> Rig:
            made.append(Rig(executor, **options))
            return made[-1]

        yield make
        for rig in made:
            rig.may_load.set()
            rig.runner.gate.release(100_000)
            await rig.book.wait_idle(20)
            assert rig.book.waiting_for_admission == 0
            rig.book.check_integrity()
            assert rig.manager.leases == 0
            assert rig.manager.waiting == 0
            assert await asyncio.to_thread(rig.engine.stop, drain=True, timeout_s=20)
            rig.engine.check_integrity()
            await rig.manager.close()
            rig.manager.check_integrity()
