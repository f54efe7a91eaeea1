"""The proof: many requests of all outcomes, then a front that is killed."""

import asyncio
import itertools
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from testing.request_log.asking import PROMPT, SECRET, Asker, LoggedAnswer
from testing.request_log.log_tail import LogTail

IN_TIME_S = 1.0
SETTLE_S = 2.0
AT_ONCE = 6
BURST = 64
TIMED_OUT = 2


@dataclass(slots=True)
class Proof:
    """Holds what was seen."""

    asked: list[LoggedAnswer] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0  # from an answer's end until its line was there
    slowest_left_s: float = 0.0  # from a client's leaving until its line was there
    problems: list[str] = field(default_factory=list)

    def judge(self, tail: LogTail, in_time_s: float) -> None:
        """Compare what was asked with the lines that are there."""
        for asked in self.asked:
            found = tail.line(asked.request)
            if found is None:
                self.problems.append(f"{asked.kind}: no line of request {asked.request}")
                continue
            at, line = found
            if asked.status is None:
                self.slowest_left_s = max(self.slowest_left_s, at - asked.ended)
            else:
                self.slowest_s = max(self.slowest_s, at - asked.ended)
            self.outcomes[line["outcome"]] += 1
            self.statuses[str(line.get("status"))] += 1
            said = (line["outcome"], line.get("tenant"))
            if said[0] not in asked.outcomes or said[1] != asked.tenant:
                self.problems.append(f"{asked.kind}: a line says {said}, not {asked}")
            if asked.status is not None and line.get("status") != asked.status:
                self.problems.append(f"{asked.kind}: status {line.get('status')}, not {asked}")
            if sum(item["event"] == "request" for _, item in tail.lines(asked.request)) != 1:
                self.problems.append(f"{asked.kind}: several lines of {asked.request}")
        if max(self.slowest_s, self.slowest_left_s) > in_time_s:
            late = f"{self.slowest_s:.2f} s after an answer, {self.slowest_left_s:.2f} s after"
            self.problems.append(f"a line came {late} a client had left")

    def search(self, files: list[Path], keys: list[str]) -> None:
        """Look for what no log may have."""
        for file in files:
            content = file.read_text(errors="replace")
            for what in (PROMPT[:24], SECRET, *keys):
                if what in content:
                    self.problems.append(f"{file.name} has text that it must not have")


async def ask_all(
    asker: Asker, tail: LogTail, count: int, seed: int = 0, *, in_time_s: float = IN_TIME_S
) -> Proof:
    """Send ``count`` requests of all kinds in random order, some at once, and judge their lines."""
    proof = Proof()
    kinds = asker.kinds
    singles = max(0, count - BURST - TIMED_OUT)
    order = list(itertools.islice(itertools.cycle(kinds), singles))
    random.Random(seed).shuffle(order)
    places = asyncio.Semaphore(AT_ONCE)

    async def ask(name: str) -> None:
        async with places:
            proof.asked.append(await kinds[name](name))

    await asyncio.gather(*map(ask, order))
    timed_out = [asyncio.create_task(asker.time_out()) for _ in range(TIMED_OUT)]
    proof.asked += await asyncio.gather(*timed_out)
    proof.asked += await asker.overload(BURST)
    await asyncio.sleep(SETTLE_S)
    for asked in proof.asked:
        await asyncio.to_thread(tail.wait_for, asked.request, in_time_s)
    proof.judge(tail, in_time_s)
    return proof


async def kill_front(
    asker: Asker,
    tail: LogTail,
    kill: Callable[[], None],
    streams: int = 3,
    *,
    in_time_s: float = IN_TIME_S,
) -> list[str]:
    """Kill the front right after an answer and amid streams; returns the problems.

    The answered request's line must be there. The replicas' lines must name the broken streams.
    """
    held = [f"held-{uuid.uuid4().hex}" for _ in range(streams)]
    begun = [asyncio.Event() for _ in held]
    tasks = [
        asyncio.create_task(asker.read_until_broken(*item))
        for item in zip(held, begun, strict=True)
    ]
    await asyncio.gather(*(event.wait() for event in begun))
    last = await asker.kinds["chat"]("chat")
    kill()
    killed = time.monotonic()
    await asyncio.gather(*tasks)
    problems = []
    for request in (last.request, *held):
        left = killed + in_time_s - time.monotonic()
        if not await asyncio.to_thread(tail.wait_for, request, max(0.0, left)):
            problems.append(f"no line has request {request} {in_time_s:g} s after the SIGKILL")
    found = tail.line(last.request)
    if found is None or found[1]["outcome"] != "completed":
        problems.append(f"the last answer before the SIGKILL has the line {found}")
    return problems
