"""An asyncio event loop in virtual time: it never waits, the clock jumps to the next event.

The cluster's coroutines run in it unchanged. Events at the same time run in the order in which
they were asked for, so equal programs run equally.
"""

import asyncio
import itertools
import math
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import Context
from functools import partial
from heapq import heappop, heappush
from typing import Any, Protocol, TypeVar, cast

_T = TypeVar("_T")


class TimedExecutor(Protocol):
    """An executor that says when its calls end."""

    def start(
        self, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> asyncio.Future[Any]:
        """Call a function; the future gets the result once the time of the call is over."""
        ...


class EventOwner(Protocol):
    """Owns events, and may be unable to act when they are due."""

    responds: bool

    def keep(self, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        """Take an event that is due while it does not respond."""
        ...


Event = tuple[float, int, EventOwner | None, Callable[..., object], tuple[Any, ...]]
"""The time, a number that grows, the owner, and what to call with which arguments."""


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs callbacks in order of their virtual times, in seconds from 0."""

    def __init__(self) -> None:
        self.now = 0.0
        """Holds what ``time`` returns; read by the parts of a simulation, which ask often."""
        self.events: list[Event] = []
        """A heap; processes add to it, with ``numbers``, which make equal times follow in order."""
        self.numbers = itertools.count()
        self._ready: deque[asyncio.Handle] = deque()
        self._failure: BaseException | None = None
        self._stopped = False
        self._running = False

    # Simulated parts

    def at(self, when: float, callback: Callable[..., object], *arguments: Any) -> None:
        """Call back at a virtual time; a time that is past counts as now."""
        heappush(self.events, (max(when, self.now), next(self.numbers), None, callback, arguments))

    def start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Run a coroutine until it first waits; only one that does becomes a task.

        It must not ask for its task before it waits.
        """
        try:
            awaited = coroutine.send(None)
        except StopIteration:
            return None
        return self.create_task(_go_on(coroutine, awaited))

    def run(self, until: float | None = None) -> None:
        """Run events until ``stop``, the last one, or the time ``until``, which is then reached.

        Raises:
            Exception: what a callback or a task raised that nothing awaits.
        """
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        self._stopped, self._running = False, True
        events, ready = self.events, self._ready
        last = math.inf if until is None else until
        try:
            self._run_ready()
            while events and not self._stopped and events[0][0] <= last:
                self.now, _, owner, callback, arguments = heappop(events)
                if owner is None or owner.responds:
                    callback(*arguments)
                else:
                    owner.keep(callback, arguments)
                if ready:
                    self._run_ready()
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
            if until is not None and not self._stopped:
                self.now = max(self.now, until)
        finally:
            self._running = False
            asyncio._set_running_loop(before)

    def stop(self) -> None:
        """Make ``run`` return after the present event."""
        self._stopped = True

    def close(self) -> None:
        """Cancel all tasks, without time passing."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            while tasks := asyncio.all_tasks(self):
                for task in tasks:
                    task.cancel()
                self._run_ready()
        finally:
            asyncio._set_running_loop(before)

    def _run_ready(self) -> None:
        while self._ready:
            handle = self._ready.popleft()
            if not handle.cancelled():
                handle._run()

    @staticmethod
    def _run_timer(handle: asyncio.TimerHandle) -> None:
        if not handle.cancelled():
            handle._run()

    # What asyncio asks of a loop

    def time(self) -> float:
        return self.now

    def call_soon(  # type: ignore[override] # typeshed names more argument forms
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override] # typeshed names more argument forms
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.at(when, self._run_timer, handle)
        return handle

    def call_later(  # type: ignore[override] # typeshed names more argument forms
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave it among the events, where it is passed over."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override] # typeshed names more argument forms
        self,
        coro: Coroutine[Any, Any, _T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[_T]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def run_in_executor(  # type: ignore[override] # a call takes virtual time here
        self, executor: Executor | None, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        return cast(TimedExecutor, executor).start(func, args)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        failure = context.get("exception")
        if failure is not None and self._failure is None:
            self._failure = failure

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return False


async def _go_on(coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
    """Finish a coroutine that was run until it waited for ``awaited``."""
    await _steps(coroutine, awaited)


@types.coroutine
def _steps(coroutine: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    while True:
        try:
            answer = yield awaited
        except BaseException as error:
            step = partial(coroutine.throw, error)
        else:
            step = partial(coroutine.send, answer)
        try:
            awaited = step()
        except StopIteration:
            return
