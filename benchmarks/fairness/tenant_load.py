"""Load of one tenant, and the tokens that it was served."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import httpx2

from testing.timed_request import Reply, ask

NEW = 1_000_000
"""Prompts from this number on have not been asked before."""


@dataclass
class TenantLoad:
    """Asks one adapter as one tenant; the prompt of each number is always the same."""

    client: httpx2.AsyncClient
    model: str
    prompt_tokens: int
    problems: list[str]
    replies: list[Reply] = field(default_factory=list)
    _awaited: int = 0  # answers, until their first tokens
    _begun: asyncio.Event = field(default_factory=asyncio.Event)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(NEW))

    async def ask(self, number: int, tokens: int) -> Reply:
        """Ask for exactly so many tokens; a failure is added to the problems."""
        rng = random.Random(f"{self.model}-{number}")
        body = {
            "model": self.model,
            "prompt": [rng.randrange(100, 40_000) for _ in range(self.prompt_tokens)],
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        began = False

        def begin(_: float = 0.0) -> None:
            nonlocal began
            self._awaited -= not began
            began = True
            if self._awaited <= 0:
                self._begun.set()

        reply = await ask(self.client, body, begin)
        begin()
        if reply.status != 200 or reply.code or reply.problem or not reply.arrivals:
            self.problems.append(f"{self.model}: {reply.status} {reply.code} {reply.problem}")
        self.replies.append(reply)
        return reply

    async def wait_begun(self, count: int) -> None:
        """Wait until so many more answers have begun, or failed."""
        self._awaited = count
        self._begun.clear()
        await self._begun.wait()

    async def ask_all(self, count: int, tokens: int) -> list[Reply]:
        """Ask so often at once."""
        return await asyncio.gather(*(self.ask(number, tokens) for number in range(count)))

    async def keep_asking(self, streams: int, tokens: int, is_over: Callable[[], bool]) -> None:
        """Ask again whenever one of so many streams has ended, with a new prompt each time."""

        async def work() -> None:
            while not is_over():
                await self.ask(next(self._numbers), tokens)

        await asyncio.gather(*(work() for _ in range(streams)))

    async def ask_singly(
        self, tokens: int, gap_s: float, is_over: Callable[[], bool]
    ) -> list[float]:
        """Ask one after another, at most once in ``gap_s``; return the times to the first token."""
        found = []
        while not is_over():
            reply = await self.ask(next(self._numbers), tokens)
            if reply.arrivals:
                found.append(reply.ttft)
            await asyncio.sleep(max(0.0, reply.sent + gap_s - time.perf_counter()))
        return found


def served_tokens(replies: Iterable[Reply], tokens: int, begin: float, end: float) -> float:
    """Return the tokens of answers that came from ``begin`` until ``end``.

    An event may bring several tokens, so each counts for an equal part of its answer.

    Args:
        tokens: of each answer.
        begin: as ``time.perf_counter()``, like ``end``.
    """
    return sum(
        tokens * sum(begin <= at < end for at in reply.arrivals) / len(reply.arrivals)
        for reply in replies
        if reply.arrivals
    )
