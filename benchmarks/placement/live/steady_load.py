"""Sends requests at a constant mean rate and compares each answer with the one known before."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import httpx2

from testing.timed_request import Reply, ask

REFUSALS = (429, 503)
"""Statuses that tell a client to come back: nothing was accepted."""


class SteadyOutcome(StrEnum):
    """The end of one request."""

    SAME = "finished, the same tokens"
    OTHER = "finished, other tokens"
    REFUSED = "refused"
    FAILED = "failed"
    LATE = "not finished"


@dataclass(frozen=True, slots=True)
class SteadyQuestion:
    """One request that has exactly one right answer."""

    model: str
    prompt: tuple[int, ...]


@dataclass
class SteadyPhase:
    """The requests that were sent during one phase."""

    name: str
    seconds: float = 0.0
    outcomes: Counter[SteadyOutcome] = field(default_factory=Counter)
    picks: Counter[str] = field(default_factory=Counter)  # by replica
    ttft: list[float] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)  # the longest within each answer, in seconds
    errors: Counter[str] = field(default_factory=Counter)


@dataclass
class SteadyLoad:
    """Asks questions at random as one tenant; requests outlive the phase that sent them."""

    client: httpx2.AsyncClient
    questions: Sequence[SteadyQuestion]
    rate: float  # requests per second
    tokens: int  # of each answer
    rng: random.Random
    phases: list[SteadyPhase] = field(default_factory=list)
    _expected: dict[SteadyQuestion, str] = field(default_factory=dict)
    _under_way: dict[asyncio.Task[None], SteadyPhase] = field(default_factory=dict)

    async def learn_answers(self) -> None:
        """Ask every question once, one after another.

        Raises:
            RuntimeError: one was not answered.
        """
        for question in self.questions:
            reply = await self._ask(question)
            if reply.status != 200 or reply.code or reply.problem:
                raise RuntimeError(f"{question.model}: {reply.status} {reply.code} {reply.problem}")
            self._expected[question] = reply.text

    async def run_phase(self, name: str, seconds: float) -> SteadyPhase:
        """Send for so long; the phase's figures go on growing until ``drain`` has ended."""
        loop = asyncio.get_running_loop()
        phase = SteadyPhase(name, seconds)
        self.phases.append(phase)
        end = loop.time() + seconds
        at = loop.time() + self.rng.expovariate(self.rate)
        while at < end:
            await asyncio.sleep(max(0.0, at - loop.time()))
            task = asyncio.create_task(self._one(self.rng.choice(self.questions), phase))
            self._under_way[task] = phase
            task.add_done_callback(self._under_way.pop)
            at += self.rng.expovariate(self.rate)
        await asyncio.sleep(max(0.0, end - loop.time()))
        return phase

    async def drain(self, seconds: float) -> None:
        """Wait for what is under way; what has not ended by then is cut off and counted."""
        if not self._under_way:
            return
        _, pending = await asyncio.wait(set(self._under_way), timeout=seconds)
        for task in pending:
            self._under_way[task].outcomes[SteadyOutcome.LATE] += 1
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _one(self, question: SteadyQuestion, phase: SteadyPhase) -> None:
        reply = await self._ask(question)
        outcome = judge(reply, self._expected[question])
        phase.outcomes[outcome] += 1
        if reply.replica:
            phase.picks[reply.replica] += 1
        if reply.arrivals:
            phase.ttft.append(reply.ttft)
            phase.pauses.append(max(reply.gaps, default=0.0))
        if outcome is not SteadyOutcome.SAME:
            phase.errors[f"{reply.status} {reply.code or reply.problem[:60]}".strip()] += 1

    async def _ask(self, question: SteadyQuestion) -> Reply:
        body = {
            "model": question.model,
            "prompt": list(question.prompt),
            "max_tokens": self.tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        return await ask(self.client, body)


def judge(reply: Reply, expected: str) -> SteadyOutcome:
    """Name the end of a request; only a status that says "come back" counts as refused."""
    if reply.status in REFUSALS and not reply.arrivals:
        return SteadyOutcome.REFUSED
    if reply.status != 200 or reply.code or reply.problem:
        return SteadyOutcome.FAILED
    return SteadyOutcome.SAME if reply.text == expected else SteadyOutcome.OTHER
