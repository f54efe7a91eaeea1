"""Calls functions in threads, and tells how long they took."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from cluster.clock import Clock

_T = TypeVar("_T")


async def timed_in_thread(
    executor: Executor, clock: Clock, function: Callable[..., _T], *arguments: Any
) -> tuple[_T, float]:
    """Return a call's result and its seconds, which leave out the wait for a thread."""

    def timed() -> tuple[_T, float]:
        started = clock.monotonic()
        result = function(*arguments)
        return result, clock.monotonic() - started

    return await asyncio.get_running_loop().run_in_executor(executor, timed)
