"""Proves that 2,000 adapters cost little more than five and spare the other tenants.

Rounds of both loads take turns. Throughput: the same clients ask 5 adapters, or 2,000 of which 8 %
are hot. Fairness: a victim asks its own adapter while another tenant asks nothing, asks a few
adapters that every replica has loaded, or asks 500 in turn, which no pool has room for. The last
two are the same load, so they show what the 500 do that any other request would not.
"""

import argparse
import asyncio
import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from benchmarks.adapters.base_models import BaseModel
from benchmarks.adapters.copies import Copies
from benchmarks.adapters.proof_cluster import sources_of, start_proof_cluster
from benchmarks.adapters.result import ProofResult, ProofVerdict, Table, median, percentile
from cluster.tenancy.quickstart import DEMO_TENANTS
from testing.admin_client import TIERS, Admin
from testing.local_cluster import LocalCluster
from testing.timed_request import Reply, ask

VICTIM, OTHER = DEMO_TENANTS
FEW = 5
HOT_REQUESTS = 0.9
"""Of the requests that ask for a hot adapter."""
COLD = 500
"""Adapters that the other tenant asks for in turn."""
ALONE = "alone"
WARM = f"beside {FEW - 1} warm adapters"
MANY_COLD = f"beside {COLD} cold adapters"
THROUGHPUT = 0.85
CHANGE = 1.2
WARM_UP_ROUNDS = 4
"""Of each load, not counted: hot adapters have been used before, as hot ones are."""
REST_S = 60.0
SHOWN = 10
Choose = Callable[[], str]


@dataclass
class SkewLoad:
    """Figures of one sort of round."""

    tokens_per_s: list[float] = field(default_factory=list)  # of each round
    ttft: list[float] = field(default_factory=list)
    hits: Counter[str] = field(default_factory=Counter)  # by tier
    shared: int = 0  # requests whose first token was computed together with another tenant's


@dataclass
class SkewLog:
    """Figures of all rounds."""

    loads: dict[str, SkewLoad] = field(default_factory=lambda: defaultdict(SkewLoad))
    registered_s: float = 0.0
    problems: list[str] = field(default_factory=list)


class Skew:
    """Rounds on one cluster; every request has its own prompt and the same number of tokens."""

    def __init__(self, cluster: LocalCluster, copies: Copies, options: argparse.Namespace) -> None:
        self._cluster = cluster
        self._copies = copies
        self._options = options
        self._rng = random.Random(options.seed)
        self.book = SkewLog()
        names = [f"many-{number}" for number in range(options.adapters)]
        self._names = names
        self._few = names[:FEW]
        self._hot = names[FEW : FEW + round(options.hot * len(names))]
        self._rest = names[FEW + len(self._hot) :]

    async def run(self) -> None:
        """Register, then run all rounds."""
        async with (
            self._cluster.client() as admin_client,
            self._cluster.client(VICTIM) as victim,
            self._cluster.client(OTHER) as other,
        ):
            admin = Admin(admin_client)
            await self._register(admin)
            await self._throughput(admin, victim)
            await self._fairness(admin, victim, other)
            self.book.problems += await admin.unrest(REST_S)
            self.book.problems += await admin.broken_books(self._cluster.config.replica.replicas)

    async def _register(self, admin: Admin) -> None:
        began = time.perf_counter()
        numbers = iter(range(len(self._names)))

        async def work() -> None:
            for number in numbers:
                name = self._names[number]
                folder = sources_of(self._cluster.state) / name
                await asyncio.to_thread(self._copies.write, folder, number)
                await admin.add_folder(name, name)
                if (number + 1) % 100 == 0:
                    print(f"  {number + 1} registered", flush=True)

        await asyncio.gather(*(work() for _ in range(self._options.workers)))
        self.book.registered_s = time.perf_counter() - began

    async def _throughput(self, admin: Admin, client: httpx2.AsyncClient) -> None:
        loads = {f"{FEW} adapters": self._of_few, f"{len(self._names)} adapters": self._of_many}
        for choose in loads.values():
            for _ in range(WARM_UP_ROUNDS):
                await self._round("", client, choose)
        for number in range(self._options.rounds):
            for name, choose in loads.items():
                before = await admin.hits()
                await self._round(name, client, choose)
                self.book.loads[name].hits += await admin.hits() - before
            print(f"  round {number + 1} of {self._options.rounds}", flush=True)

    def _of_few(self) -> str:
        return self._rng.choice(self._few)

    def _of_many(self) -> str:
        hot = self._rng.random() < HOT_REQUESTS
        return self._rng.choice(self._hot if hot else self._rest)

    async def _round(self, name: str, client: httpx2.AsyncClient, choose: Choose) -> None:
        """Run clients that ask again as soon as they are answered; the slowest ends the round."""
        options = self._options
        left = iter(range(options.requests))

        async def work() -> None:
            for _ in left:
                await self._ask(name, client, choose())

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(options.concurrency)))
        rate = options.requests * options.tokens / (time.perf_counter() - began)
        if name:
            self.book.loads[name].tokens_per_s.append(rate)

    async def _fairness(
        self, admin: Admin, victim: httpx2.AsyncClient, other: httpx2.AsyncClient
    ) -> None:
        cold = itertools.cycle(self._rest[-COLD:])
        warm = itertools.cycle(self._few[1:])
        others: dict[str, Choose | None] = {
            ALONE: None,
            WARM: lambda: next(warm),
            MANY_COLD: lambda: next(cold),
        }
        for number in range(-1, self._options.rounds):
            for name, choose in others.items():
                await self._beside(name if number >= 0 else "", admin, victim, other, choose)
            print(f"  fairness {number + 1} of {self._options.rounds}", flush=True)

    async def _beside(
        self,
        name: str,
        admin: Admin,
        victim: httpx2.AsyncClient,
        other: httpx2.AsyncClient,
        choose: Choose | None,
    ) -> None:
        """Ask for the victim now and then, and for the other tenant all the time."""

        theirs: list[Reply] = []
        mine: list[Reply] = []

        async def press(choose: Choose) -> None:
            while True:
                theirs.append(await self._ask("", other, choose()))

        pressing = [
            asyncio.create_task(press(choose))
            for _ in range(self._options.pressing if choose else 0)
            if choose is not None
        ]
        before = await admin.hits()
        try:
            for _ in range(self._options.victim_requests):
                mine.append(await self._ask(name, victim, self._few[0]))
                await asyncio.sleep(self._rng.expovariate(1 / self._options.victim_gap_s))
        finally:
            for task in pressing:
                task.cancel()
            await asyncio.gather(*pressing, return_exceptions=True)
        if name:
            self.book.loads[name].hits += await admin.hits() - before
            self.book.loads[name].shared += sum(met(reply, theirs) for reply in mine)

    async def _ask(self, name: str, client: httpx2.AsyncClient, model: str) -> Reply:
        options = self._options
        body = {
            "model": model,
            "prompt": [self._rng.randrange(100, 40_000) for _ in range(options.prompt_tokens)],
            "max_tokens": options.tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        reply = await ask(client, body)
        if reply.status != 200 or reply.code or reply.problem or set(reply.adapters) != {model}:
            self.book.problems.append(f"{model}: {reply.status} {reply.code} {reply.problem}")
        elif name and reply.arrivals:
            self.book.loads[name].ttft.append(reply.ttft)
        return reply


def met(reply: Reply, others: Sequence[Reply]) -> bool:
    """Check if its replica was busy with one of the others before its first token."""
    return any(
        other.replica == reply.replica
        and other.sent < (reply.arrivals or [reply.ended])[0]
        and other.ended > reply.sent
        for other in others
    )


def run(options: argparse.Namespace, base: BaseModel, folder: Path) -> ProofResult:
    """Run the proof on a cluster of its own."""
    copies = Copies(base.path, folder / "made", options.rank, options.seed)
    cluster = start_proof_cluster(
        folder / "state",
        base.served,
        adapters={"slots": options.slots},
        engine={"max_model_len": 256},
    )
    skew = Skew(cluster, copies, options)
    try:
        asyncio.run(skew.run())
    finally:
        killed = cluster.stop()
    if killed:
        skew.book.problems.append(f"processes {killed} had to be killed at the end")
    return report(options, base, copies, skew.book)


def report(
    options: argparse.Namespace, base: BaseModel, copies: Copies, book: SkewLog
) -> ProofResult:
    """Make the result."""
    few, many = (book.loads[f"{count} adapters"] for count in (FEW, options.adapters))
    alone, warm, cold = (book.loads[name] for name in (ALONE, WARM, MANY_COLD))
    ratios = [b / a for a, b in zip(few.tokens_per_s, many.tokens_per_s, strict=True)]
    return ProofResult(
        title="Many adapters, few of them hot",
        command=options.command,
        summary=(
            f"{options.hot:.0%} of the adapters get {HOT_REQUESTS:.0%} of the requests. Ratios "
            "are medians over rounds in turns."
        ),
        setup={
            "base": base.name,
            "adapters": f"{options.adapters} of rank {options.rank}, {copies.nbytes} bytes each",
            "replicas": 2,
            "slots per replica": options.slots,
            "requests of a round": options.requests,
            "at once": options.concurrency,
            "tokens": f"{options.prompt_tokens} in, {options.tokens} out",
            "the other tenant's requests at once": options.pressing,
        },
        problems=book.problems[:SHOWN],
        verdicts=[
            ProofVerdict("throughput, of that on 5 adapters", median(ratios), THROUGHPUT, True),
            ProofVerdict(
                "victim's median TTFT, of that with the same load on warm adapters",
                median(cold.ttft) / median(warm.ttft),
                CHANGE,
            ),
            ProofVerdict(
                "victim's median TTFT, of that alone",
                median(cold.ttft) / median(alone.ttft),
                CHANGE,
            ),
        ],
        tables=[
            Table(
                "Throughput",
                ("load", "tokens/s", "of each round", "TTFT median, ms", "p99", *_found()),
                tuple(_throughput_rows(book)),
                note=(
                    f"Registering took {book.registered_s:.0f} s; {WARM_UP_ROUNDS} rounds of each "
                    "load went before. Found: requests by the tier in which their replica had the "
                    "adapter when they came, from /metrics."
                ),
            ),
            Table(
                "The victim",
                ("", "requests", "sharing a replica", "TTFT median, ms", "p99", *_found()),
                tuple(
                    (
                        name,
                        len(load.ttft),
                        load.shared,
                        round(median(load.ttft) * 1e3, 1),
                        round(percentile(load.ttft, 0.99) * 1e3, 1),
                        *(load.hits[tier] for tier in TIERS),
                    )
                    for name, load in book.loads.items()
                    if name and not load.tokens_per_s
                ),
                note=(
                    "Sharing a replica: whose replica had a request of the other tenant before "
                    "the first token. Found: requests of both tenants."
                ),
            ),
        ],
    )


def _found() -> tuple[str, ...]:
    return tuple(f"found on {tier}" for tier in TIERS)


def _throughput_rows(book: SkewLog) -> Iterator[tuple[str | float | int, ...]]:
    for name, load in book.loads.items():
        if load.tokens_per_s:
            yield (
                name,
                round(median(load.tokens_per_s), 1),
                ", ".join(f"{rate:.0f}" for rate in load.tokens_per_s),
                round(median(load.ttft) * 1e3, 1),
                round(percentile(load.ttft, 0.99) * 1e3, 1),
                *(load.hits[tier] for tier in TIERS),
            )
