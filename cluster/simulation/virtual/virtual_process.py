"""One simulated process: its clocks, and whether it runs, stands still or is dead."""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Executor
from heapq import heappush
from typing import Any

from cluster.simulation.virtual.virtual_loop import VirtualLoop


class VirtualClock:
    """A process's clocks. Both begin at the same number; ``skew`` moves the wall clock alone."""

    def __init__(self, loop: VirtualLoop, start: float) -> None:
        self._loop = loop
        self._start = start
        self.skew = 0.0
        self.spent = 0.0  # seconds by which the function that runs in a thread is ahead of the loop

    def monotonic(self) -> float:
        return self._start + self._loop.now + self.spent

    def wall(self) -> float:
        return self.monotonic() + self.skew


class VirtualProcess:
    """Whatever is to happen in a process goes through it, so that it ends and stands still whole.

    What was due while it stood still happens when it goes on, in order. What was due after its
    death never happens.
    """

    def __init__(self, loop: VirtualLoop, name: str, start_wall: float) -> None:
        self.loop = loop
        self.name = name
        self.clock = VirtualClock(loop, start_wall)
        self.responds = True  # it would answer a call now
        self.alive = True
        self.died_at = math.inf  # virtual seconds
        self._held: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def after(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> None:
        """Call back in this process after so many seconds, at least 0."""
        loop = self.loop
        event = (loop.now + seconds, next(loop.numbers), self, callback, arguments)
        heappush(loop.events, event)

    def hang(self) -> None:
        """Stop computing and answering, without an end."""
        self.responds = False

    def resume(self) -> None:
        """Go on, with what was due meanwhile first."""
        self.responds = self.alive
        held, self._held = self._held, []
        for callback, arguments in held:
            if self.responds:
                callback(*arguments)
            else:
                self.keep(callback, arguments)

    def kill(self) -> None:
        """End at once."""
        if self.alive:
            self.alive, self.responds, self.died_at = False, False, self.loop.now
        self._held.clear()

    def keep(self, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        """Take an event that is due while it does not respond; one after its death is lost."""
        if self.alive:
            self._held.append((callback, arguments))


class VirtualExecutor(Executor):
    """Runs functions in virtual time: each says by ``spend`` how long it takes."""

    def __init__(self, process: VirtualProcess) -> None:
        self._process = process

    def spend(self, seconds: float) -> None:
        """Let the function that runs now take so much longer, by its own clock as well."""
        self._process.clock.spent += seconds

    def start(
        self, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> asyncio.Future[Any]:
        """Call a function; the future gets the result once the time of the call is over."""
        future = self._process.loop.create_future()
        clock = self._process.clock
        try:
            result = function(*arguments)
            self._process.after(clock.spent, _settle, future, result)
        finally:
            clock.spent = 0.0
        return future


def _settle(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)
