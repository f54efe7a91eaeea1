"""Add, serve from every replica, remove, a thousand times: nothing may be left anywhere.

A name is pinned while it is asked for, which brings it to every replica; of two that have it the
one with less to do answers, and so each in its turn.
"""

import argparse
import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import redis.asyncio

from benchmarks.adapters.base_models import BaseModel
from benchmarks.adapters.copies import Copies
from benchmarks.adapters.proof_cluster import start_proof_cluster, stored_in
from benchmarks.adapters.result import ProofResult, ProofVerdict, Table, median, percentile
from benchmarks.soak.limits import OWN, is_own
from benchmarks.soak.processes import ProcessBook, role_of_name, window
from cluster.tenancy.quickstart import DEMO_TENANTS
from testing.admin_client import REPORTED_S, Admin, Refused
from testing.local_cluster import LocalCluster
from testing.timed_request import ask, crowds

TENANT = DEMO_TENANTS[0]
SAMPLE_S = 2.0
REST_S = 60.0
WARM_UP = 0.25
"""Of as many cycles more, which go before: what is made once must be there first."""
REPLICA = "Replica"
KV_BLOCKS = 32
"""So few that all have been used before memory is compared: the system gives a pool its memory when
it is first written."""
RETURNED = 0.01
"""Of a replica's memory before, by which what it holds afterwards may differ."""
DECISIONS = b":decision:"
"""In the keys of decisions, which a cycle need not take back."""


@dataclass
class CycleLog:
    """Events and times of all cycles."""

    add_s: list[float] = field(default_factory=list)
    remove_s: list[float] = field(default_factory=list)
    served: int = 0
    unserved: int = 0  # cycles in which not every replica was seen to answer
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RestState:
    """Contents of the cluster at rest."""

    device_bytes: int
    host_bytes: int
    redis_bytes: int
    decision_bytes: int  # of those: decisions, which go with their time
    redis_keys: int
    store_files: int
    replicas: Mapping[str, int]  # resident bytes of each replica's process


class Cycles:
    """Workers that take cycle after cycle."""

    def __init__(self, cluster: LocalCluster, copies: Copies, folder: Path) -> None:
        self._cluster = cluster
        self._copies = copies
        self._folder = folder
        self.book = CycleLog()
        self.samples = ProcessBook()
        self.marks: list[float] = []  # when each cycle ended, seconds since the start
        self._started = time.perf_counter()

    async def run(self, first: int, count: int, workers: int) -> float:
        """Run cycles ``first`` to ``first + count - 1``; returns their seconds."""
        numbers = iter(range(first, first + count))
        sampling = asyncio.create_task(self._sample())
        self._started = time.perf_counter()
        try:
            async with self._cluster.client() as admin, self._cluster.client(TENANT) as tenant:
                await asyncio.gather(
                    *(self._work(n, numbers, Admin(admin), tenant) for n in range(workers))
                )
        finally:
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
        return time.perf_counter() - self._started

    @property
    def replicas(self) -> int:
        """Of the cluster."""
        return self._cluster.config.replica.replicas

    def reset(self) -> None:
        """Clear the log; problems stay."""
        self.book = CycleLog(problems=self.book.problems)
        self.samples = ProcessBook()
        self.marks = []

    async def _work(
        self, worker: int, numbers: Iterator[int], admin: Admin, tenant: httpx2.AsyncClient
    ) -> None:
        folder = self._folder / f"worker-{worker}"
        for number in numbers:
            try:
                await self._cycle(number, folder, admin, tenant)
            except Refused as refused:
                self.book.problems.append(str(refused))
            self.marks.append(time.perf_counter() - self._started)
            if len(self.marks) % 100 == 0:
                print(f"  {len(self.marks)} cycles, {self.marks[-1]:.0f} s", flush=True)

    async def _cycle(
        self, number: int, folder: Path, admin: Admin, tenant: httpx2.AsyncClient
    ) -> None:
        name = f"cycle-{number}"
        archive = await asyncio.to_thread(self._copies.archive, folder, number)
        sent = time.perf_counter()
        version = await admin.upload(name, archive)
        self.book.add_s.append(time.perf_counter() - sent)
        await admin.pin(name)
        await self._serve(name, version, tenant)
        await admin.pin(name, False)
        sent = time.perf_counter()
        if not await admin.remove(name, wait_s=REST_S):
            self.book.problems.append(f"{name}: still in use after {REST_S:g} s")
        self.book.remove_s.append(time.perf_counter() - sent)

    async def _serve(self, name: str, version: str, tenant: httpx2.AsyncClient) -> None:
        """Ask until every replica has answered, so that its weights were used everywhere."""
        body = {"model": name, "prompt": "Once upon", "max_tokens": 1, "temperature": 0}
        seen: set[str] = set()
        wanted = self._cluster.config.replica.replicas
        for asked in crowds(wanted):
            replies = await asyncio.gather(*(ask(tenant, body) for _ in range(asked)))
            for reply in replies:
                if reply.status != 200 or reply.adapters != {name: version}:
                    self.book.problems.append(f"{name}: {reply}")
                seen.add(reply.replica)
            if len(seen) == wanted:
                self.book.served += 1
                return
        self.book.unserved += 1

    async def _sample(self) -> None:
        port = self._cluster.redis_port
        while True:
            at = time.perf_counter() - self._started
            await asyncio.to_thread(self.samples.look, self._cluster.running.pid, at, port)
            await asyncio.sleep(SAMPLE_S)


async def rest_state(cluster: LocalCluster) -> tuple[RestState, list[str]]:
    """Read the contents of the cluster once it rests, and list what is out of balance."""
    async with cluster.client() as client:
        admin = Admin(client)
        problems = [*await admin.unrest(REST_S), *await admin.left(REST_S)]
        problems += await admin.broken_books(cluster.config.replica.replicas)
        await asyncio.sleep(REPORTED_S)
        replicas = await admin.residency()
        device, host = (
            sum(replica[name] for replica in replicas)
            for name in ("adapter_bytes_used", "host_bytes_used")
        )
    store = redis.asyncio.from_url(cluster.redis_url)
    try:
        memory = await store.info("memory")
        keys = [key async for key in store.scan_iter()]
        decisions = [key for key in keys if DECISIONS in key]
        async with store.pipeline(transaction=False) as sizes:
            for key in decisions:
                sizes.memory_usage(key)
            decision_bytes = sum(size or 0 for size in await sizes.execute())
    finally:
        await store.aclose()
    found = RestState(
        device,
        host,
        int(memory["used_memory"]),
        decision_bytes,
        len(keys) - len(decisions),
        len(stored_in(cluster.state)),
        resident(cluster),
    )
    return found, problems


def resident(cluster: LocalCluster) -> dict[str, int]:
    """Read the bytes of each replica's process in memory."""
    book = ProcessBook()
    book.look(cluster.running.pid, 0.0, cluster.redis_port)
    return {
        name: sample.rss
        for name, (sample,) in book.samples.items()
        if role_of_name(name) == REPLICA
    }


def run(options: argparse.Namespace, base: BaseModel, folder: Path) -> ProofResult:
    """Run the proof on a cluster of its own."""
    copies = Copies(base.path, folder / "made", options.rank, options.seed)
    cluster = start_proof_cluster(
        folder / "state",
        base.served,
        adapters={"slots": options.slots},
        engine={"max_model_len": 256, "kv_blocks": KV_BLOCKS},
    )
    try:
        cycles = Cycles(cluster, copies, folder)
        before = max(1, round(WARM_UP * options.cycles))
        first, problems = asyncio.run(warm(cluster, cycles, before, options.workers))
        elapsed = asyncio.run(cycles.run(before, options.cycles, options.workers))
        last, more = asyncio.run(rest_state(cluster))
        problems += more
    finally:
        killed = cluster.stop()
    if killed:
        problems.append(f"processes {killed} had to be killed at the end")
    return report(options, base, copies, cycles, (first, last), problems, elapsed)


async def warm(
    cluster: LocalCluster, cycles: Cycles, count: int, workers: int
) -> tuple[RestState, list[str]]:
    """Run the first cycles; returns the contents after them."""
    await cycles.run(0, count, workers)
    cycles.reset()
    return await rest_state(cluster)


def report(
    options: argparse.Namespace,
    base: BaseModel,
    copies: Copies,
    cycles: Cycles,
    before_and_after: tuple[RestState, RestState],
    problems: list[str],
    elapsed: float,
) -> ProofResult:
    """Make the result."""
    before, after = before_and_after
    book, drifts = cycles.book, cycles.samples.drifts(0, elapsed)
    growth = [(drift, drift.rss[1] / drift.rss[0]) for drift in drifts]
    result = ProofResult(
        title="Adding and removing adapters again and again",
        command=options.command,
        summary=(
            "Each cycle adds an adapter with bytes of its own, pins it, has every replica answer "
            "with it, removes it, and waits until its memory and files are freed."
        ),
        setup={
            "base": base.name,
            "adapter": f"rank {options.rank} on all linear modules, {copies.nbytes} bytes",
            "cycles": options.cycles,
            "at once": options.workers,
            "replicas": cycles.replicas,
            "slots per replica": options.slots,
        },
        problems=problems + book.problems,
        verdicts=[
            ProofVerdict(
                "cycles that every replica answered in", book.served, options.cycles, True
            ),
            *(
                ProofVerdict(
                    f"memory of {role_of_name(drift.name)}, times as much",
                    rate,
                    max(1 + OWN.memory, 1 + OWN.memory_floor * 2**20 / drift.rss[0]),
                )
                for drift, rate in growth
                if is_own(drift)
            ),
            *(
                ProofVerdict(
                    "memory of a replica at rest, times as much",
                    after.replicas.get(name, 0) / nbytes,
                    1 + RETURNED,
                )
                for name, nbytes in sorted(before.replicas.items())
            ),
            ProofVerdict("adapter bytes left on devices", after.device_bytes, before.device_bytes),
            ProofVerdict("adapter bytes left on hosts", after.host_bytes, before.host_bytes),
            ProofVerdict("files left in the store", after.store_files, 0),
            ProofVerdict("keys more in Redis", after.redis_keys - before.redis_keys, 0),
        ],
    )
    width = window(0, elapsed)
    result.tables += [
        Table(
            "Times",
            ("", "median, ms", "p99, ms"),
            tuple(
                (what, round(median(s) * 1e3, 1), round(percentile(s, 0.99) * 1e3, 1))
                for what, s in (("add", book.add_s), ("remove, until all is free", book.remove_s))
            ),
            note=f"{options.cycles} cycles in {elapsed:.0f} s.",
        ),
        Table(
            "Memory",
            ("process", "MiB", "at the end", "growth"),
            tuple(
                (
                    role_of_name(drift.name),
                    round(drift.rss[0] / 2**20, 1),
                    round(drift.rss[1] / 2**20, 1),
                    f"{rate - 1:+.1%}",
                )
                for drift, rate in growth
            ),
            note=(
                f"Resident, medians over the first and the last {width:.0f} s of the cycles, "
                f"{round(WARM_UP * options.cycles)} others before them. Redis says "
                f"{before.redis_bytes} bytes before and {after.redis_bytes} after; "
                f"{before.decision_bytes} and {after.decision_bytes} of them are decisions, which "
                "are kept for an hour."
            ),
        ),
    ]
    return result
