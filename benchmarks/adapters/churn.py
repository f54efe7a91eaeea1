"""Adapters that are added, replaced, switched, rolled back and removed all the time."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.adapters.local_cluster import Admin, Refused
from benchmarks.adapters.names import NameBook
from benchmarks.adapters.signatures import Signature, Voice

NO_WAIT_SHARE = 0.5
"""Of the removals that do not wait for the memory."""
AGAIN_SHARE = 0.3
"""Of the additions that bring bytes which were there before."""
KINDS = {"replace": 40, "add": 20, "remove": 20, "switch": 12, "rollback": 8}


@dataclass(frozen=True, slots=True)
class Made:
    """An adapter that can be added."""

    signature: Signature
    voice: Voice
    archive: bytes


class Churn:
    """Changes names one after another, several workers at a time, each name by one of them.

    Args:
        supply: adapters not added yet, each with a signature of its own.
        book: told of every change.
        size: names that there should be, about.
    """

    def __init__(
        self,
        admin: Admin,
        supply: Sequence[Made],
        book: NameBook,
        rng: random.Random,
        size: int,
    ) -> None:
        self._admin = admin
        self._fresh = list(reversed(supply))
        self._rng = rng
        self._size = size
        self._busy: set[str] = set()
        self._number = 0
        self._previous: dict[str, list[str]] = defaultdict(list)
        self._used: list[Made] = []
        self.book = book
        self.made_by: dict[str, Made] = {}
        """Version -> what it was made from."""
        self.counts: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.problems: list[str] = []
        self.conflicts = 0
        """Additions of bytes that were just being deleted, told to try again, which they did."""

    async def fill(self, workers: int) -> None:
        """Bring the names to their number."""
        await self._several(workers, lambda: len(self.book.names) + len(self._busy) < self._size)

    async def run(self, workers: int, go_on: Callable[[], bool]) -> None:
        """Change names while ``go_on()``."""
        await self._several(workers, go_on, KINDS)

    async def empty(self, workers: int) -> None:
        """Remove every name, and wait each time until its memory is free."""
        await self._several(workers, lambda: bool(self._free()), {"remove": 1}, wait=True)

    async def _several(
        self,
        workers: int,
        go_on: Callable[[], bool],
        kinds: dict[str, int] | None = None,
        wait: bool = False,
    ) -> None:
        async def work() -> None:
            while go_on():
                kind = self._kind(kinds)
                await self._change(kind, wait)

        await asyncio.gather(*(work() for _ in range(workers)))

    def _kind(self, kinds: dict[str, int] | None) -> str:
        if kinds is None:
            return "add"
        kind = self._rng.choices(list(kinds), weights=list(kinds.values()))[0]
        there = len(self.book.names)
        if kind == "add" and there > 1.05 * self._size:
            return "remove"
        if kind == "remove" and "add" in kinds and there < 0.95 * self._size:
            return "add"
        return kind

    async def _change(self, kind: str, wait: bool) -> None:
        free = self._free()
        if kind == "rollback":
            free = [name for name in free if self._previous[name]]
        if kind == "add" or not free:
            self._number += 1
            name, kind = f"voice-{self._number}", "add"
        else:
            name = self._rng.choice(free)
        self._busy.add(name)
        sent = time.perf_counter()
        try:
            after = await self._carry_out(kind, name, wait)
        except Refused as refused:
            self.problems.append(f"{kind} {name}: {refused}")
            return
        finally:
            self._busy.discard(name)
        answered = time.perf_counter()
        self._remember(kind, name, after)
        self.book.change(name, after, sent, answered)
        self.counts[kind] += 1
        self.seconds[kind].append(answered - sent)

    async def _carry_out(self, kind: str, name: str, wait: bool) -> str | None:
        rng = self._rng
        match kind:
            case "add" | "replace":
                made = self._next()
                query = {"replace": "true"} if kind == "replace" else {}
                return await self._upload(name, made, query)
            case "switch":
                others = [n for n in self.book.names if n not in self._busy]
                other = rng.choice(others) if others else name
                self._busy.add(other)  # so that its version stays while this name takes it
                try:
                    target = self.book.current(other)
                    assert target is not None
                    await self._admin.switch(name, target)
                finally:
                    if other != name:
                        self._busy.discard(other)
                return target
            case "rollback":
                return await self._admin.roll_back(name)
            case _:
                await self._admin.remove(
                    name, 0 if not wait and rng.random() < NO_WAIT_SHARE else 60.0
                )
                return None

    async def _upload(self, name: str, made: Made, query: dict[str, str]) -> str:
        """Also in the moment in which the same bytes are being deleted."""
        while True:
            try:
                version = await self._admin.upload(name, made.archive, **query)
            except Refused as refused:
                if "being removed" not in str(refused):
                    raise
                self.conflicts += 1
                continue
            self.made_by[version] = made
            return version

    def _next(self) -> Made:
        again = self._used and (not self._fresh or self._rng.random() < AGAIN_SHARE)
        made = self._rng.choice(self._used) if again else self._fresh.pop()
        if not again:
            self._used.append(made)
        return made

    def _remember(self, kind: str, name: str, after: str | None) -> None:
        before = self.book.current(name)
        previous = self._previous[name]
        if after is None:
            previous.clear()
        elif kind == "rollback":
            expected = previous.pop()
            if after != expected:
                self.problems.append(f"rollback {name}: found {after}, expected {expected}")
        elif before is not None and before != after:
            previous.append(before)

    def _free(self) -> list[str]:
        return [name for name in self.book.names if name not in self._busy]
