"""Runs blocking work in threads, so that the event loop never waits for it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from cluster.errors import AdapterSourceTimeout

_T = TypeVar("_T")


Proceed = Callable[[], None]
"""Called between pieces of work; raises once the work is no longer wanted."""


class _Abandoned(Exception):
    """Ends a thread whose caller was cancelled; never leaves this module."""


async def run_to_end(work: Callable[[Proceed], _T]) -> _T:
    """Run ``work(proceed)`` in a thread; a cancellation waits until it has ended.

    For work on files that the caller deletes afterwards: when this returns or raises, in
    whatever way, the thread touches nothing any more. ``work`` calls ``proceed`` often, so that
    a cancellation does not wait long.
    """
    cancelled = threading.Event()

    def proceed() -> None:
        if cancelled.is_set():
            raise _Abandoned

    task = asyncio.ensure_future(asyncio.to_thread(work, proceed))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        cancelled.set()
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue  # asked again; the first one is raised below
        if not task.cancelled():
            task.exception()  # seen: the cancellation outranks it
        raise


async def run_detached(work: Callable[[], _T], name: str) -> _T:
    """Run ``work`` in a daemon thread; a cancellation leaves it behind.

    For reads of a remote that may never answer and cannot be interrupted. ``work`` must touch
    nothing but its own memory, so that it does no harm if it ends late or never.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(setter: Callable[[], None]) -> None:
        if not future.done():
            setter()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # handed to the waiter, whatever it is
            failure = error
            _call(loop, lambda: settle(lambda: future.set_exception(failure)))
        else:
            _call(loop, lambda: settle(lambda: future.set_result(result)))

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future


async def paced(
    chunks: AsyncIterator[bytes], stall_timeout_s: float, where: str
) -> AsyncIterator[bytes]:
    """Yield the chunks, each within ``stall_timeout_s`` of the one before.

    Raises:
        AdapterSourceTimeout: nothing came for that long.
    """
    while True:
        try:
            async with asyncio.timeout(stall_timeout_s):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise AdapterSourceTimeout(
                f"{where}: expected bytes within {stall_timeout_s:g} s (stall_timeout_s), got none"
            ) from error
        yield chunk


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:  # the loop has closed, and nothing waits for it
        return
