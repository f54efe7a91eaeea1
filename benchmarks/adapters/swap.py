"""How soon a new adapter speaks, and whether those who listen to others notice.

Windows take turns on one cluster: streams alone, and streams while adapters are brought in. An
adapter from the disk was never seen before: it is added, with all its checks, and asked for. One
from host memory was pushed out of the devices: a name is pointed to it, and asked for. In both
cases the name is pinned meanwhile, which brings it to every replica. Counted are the
administrator's requests, and then each replica's first answer, from its request to its first token.
"""

import argparse
import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.adapters.asking import Reply, ask, crowds
from benchmarks.adapters.base_models import BaseModel
from benchmarks.adapters.copies import Copies
from benchmarks.adapters.local_cluster import TIERS, Admin, ProofCluster
from benchmarks.adapters.result import Result, Table, Verdict, median, percentile
from cluster.tenancy.quickstart import DEMO_TENANTS

TENANT = DEMO_TENANTS[0]
LIMITS_S = {"disk": 1.0, "host": 0.3}
PAUSE = 1.5
"""Times the quiet p99 that the p99 between tokens may be."""
SWAPS_PER_WINDOW = 5
PROMPT_TOKENS = 2
"""Of the requests that tell when an adapter speaks: they take their share of a step, too."""
REST_S = 60.0
NAME = "swapped"


@dataclass
class Swaps:
    """What one kind of swap took."""

    ready: list[float] = field(default_factory=list)  # until the request was answered
    first: list[float] = field(default_factory=list)  # until the first replica's first token
    both: list[float] = field(default_factory=list)  # until the last replica's
    hits: Counter[str] = field(default_factory=Counter)  # by the tier that replicas found it in


class Listeners:
    """Streams that never end: one that does is begun anew."""

    def __init__(self, client: httpx2.AsyncClient, bodies: list[dict[str, Any]]) -> None:
        self._client = client
        self._bodies = bodies
        self.gaps: dict[str, list[float]] = defaultdict(list)
        self.window = "warm-up"
        self.problems: list[str] = []

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.gather(*(self._listen(body) for body in self._bodies))

    async def _listen(self, body: Mapping[str, Any]) -> None:
        while True:
            last: tuple[float, str] | None = None

            def arrived(at: float) -> None:
                nonlocal last
                if last is not None and last[1] == self.window:
                    self.gaps[self.window].append(at - last[0])
                last = (at, self.window)

            reply = await ask(self._client, body, arrived)
            if reply.status != 200 or reply.code or reply.problem:
                self.problems.append(f"a stream ended: {reply.status} {reply.code} {reply.problem}")
                await asyncio.sleep(1.0)


class Swapping:
    """Brings adapters in and asks every replica for them."""

    def __init__(
        self,
        cluster: ProofCluster,
        admin: Admin,
        client: httpx2.AsyncClient,
        made: Sequence[Path],
        rng: random.Random,
    ) -> None:
        self._cluster = cluster
        self._admin = admin
        self._client = client
        self._made = list(reversed(made))
        self._rng = rng
        self.known: list[str] = []
        """Versions, oldest first; each has a name of its own."""
        self.swaps: dict[str, Swaps] = defaultdict(Swaps)
        self.problems: list[str] = []

    async def from_disk(self) -> None:
        """Add an adapter whose files lie on this machine."""
        folder = self._made.pop()
        name = folder.name
        began = time.perf_counter()
        version = await self._admin.add_folder(name, folder.name)
        self.known.append(version)
        await self._speak("disk", name, version, began)

    async def from_host(self) -> None:
        """Point a name to a version that no device has, and that all have had."""
        there = await self._on_devices()
        away = [version for version in self.known if version not in there]
        if not away:
            self.problems.append("every version is on a device; more must be kept than slots")
            return
        version = self._rng.choice(away)
        began = time.perf_counter()
        await self._admin.switch(NAME, version)
        await self._speak("host", NAME, version, began)

    async def _on_devices(self) -> set[str]:
        return {
            held["digest"]
            for replica in await self._admin.residency()
            for held in replica["resident"]
            if held["tier"] == "device"
        }

    async def _speak(self, kind: str, name: str, version: str, began: float) -> None:
        await self._admin.pin(name)
        try:
            await self._first_tokens(kind, name, version, began)
        finally:
            await self._admin.pin(name, False)

    async def _first_tokens(self, kind: str, name: str, version: str, began: float) -> None:
        ready = time.perf_counter() - began
        wanted = self._cluster.config.replica.replicas
        first: dict[str, float] = {}
        body = {
            "model": name,
            "prompt": [self._rng.randrange(100, 40_000) for _ in range(PROMPT_TOKENS)],
            "max_tokens": 1,
            "temperature": 0,
            "stream": True,
        }
        for asked in crowds(wanted):
            replies = await asyncio.gather(*(ask(self._client, body) for _ in range(asked)))
            for reply in replies:
                self._note(reply, name, version, first)
            if len(first) >= wanted:
                break
        else:
            self.problems.append(f"{name}: answered by {len(first)} of {wanted} replicas")
            return
        swaps = self.swaps[kind]
        swaps.ready.append(ready)
        swaps.first.append(ready + min(first.values()))
        swaps.both.append(ready + max(first.values()))

    def _note(self, reply: Reply, name: str, version: str, first: dict[str, float]) -> None:
        if reply.status != 200 or reply.adapters != {name: version} or not reply.arrivals:
            self.problems.append(f"{name}: {reply}")
            return
        first.setdefault(reply.replica, reply.ttft)


async def measure(
    cluster: ProofCluster, base: BaseModel, copies: Copies, options: argparse.Namespace
) -> tuple[Listeners, Swapping]:
    """Quiet and busy windows in turns."""
    stream = {
        "prompt": "Tell me a long story about a river.",
        "max_tokens": options.stream_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    # Before any stream runs: who writes while it listens finds pauses that are its own.
    made = [
        copies.write(cluster.sources / f"added-{number}", number)
        for number in range(2 * options.slots + options.swaps)
    ]
    async with cluster.client() as admin_client, cluster.client(TENANT) as client:
        admin = Admin(admin_client)
        swapping = Swapping(cluster, admin, client, made, random.Random(options.seed))
        await fill(swapping, options.slots)
        hot = "added-0"
        models = [base.called if n % 2 else hot for n in range(options.streams)]
        listeners = Listeners(client, [{**stream, "model": model} for model in models])
        listening = asyncio.create_task(listeners.run())
        try:
            await asyncio.sleep(options.window_s)
            done = 0
            while done < options.swaps:
                listeners.window = "quiet"
                await asyncio.sleep(options.window_s)
                for kind in ("disk", "host"):
                    before = await admin.hits()
                    listeners.window = f"swaps from {kind}"
                    for _ in range(min(SWAPS_PER_WINDOW, options.swaps - done)):
                        await (swapping.from_disk() if kind == "disk" else swapping.from_host())
                    listeners.window = "between"
                    swapping.swaps[kind].hits += await admin.hits() - before
                done += SWAPS_PER_WINDOW
                print(f"  {min(done, options.swaps)} swaps of each kind", flush=True)
                await trim(admin, swapping, options.keep)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        problems = await admin.unrest(REST_S)
        problems += await admin.broken_books(cluster.config.replica.replicas)
        swapping.problems += problems
    return listeners, swapping


async def fill(swapping: Swapping, slots: int) -> None:
    """More adapters than slots, all of which every replica has had."""
    for _ in range(2 * slots):
        await swapping.from_disk()
    swapping.swaps.clear()


async def trim(admin: Admin, swapping: Swapping, keep: int) -> None:
    """Remove names that were added, oldest but the first first, down to ``keep``."""
    while len(swapping.known) > keep:
        version = swapping.known.pop(1)
        listed = await admin.listed()
        for card in listed["data"]:
            if card["version"] == version:
                await admin.remove(card["name"], wait_s=0)


def run(options: argparse.Namespace, base: BaseModel, folder: Path) -> Result:
    """The proof on a cluster of its own."""
    copies = Copies(base.path, folder / "made", options.rank, options.seed)
    cluster = ProofCluster.start(
        folder / "state",
        base.served,
        adapters={"slots": options.slots},
        engine={"max_model_len": 1024},
    )
    try:
        listeners, swapping = asyncio.run(measure(cluster, base, copies, options))
    finally:
        killed = cluster.stop()
    if killed:
        swapping.problems.append(f"processes {killed} had to be killed at the end")
    return report(options, base, copies, listeners, swapping)


def report(
    options: argparse.Namespace,
    base: BaseModel,
    copies: Copies,
    listeners: Listeners,
    swapping: Swapping,
) -> Result:
    """The result."""
    quiet = percentile(listeners.gaps["quiet"], 0.99)
    result = Result(
        title="How soon a new adapter speaks",
        command=options.command,
        summary=(
            "The administrator's requests and a replica's first request with the adapter until its "
            "first token, on the faster and on the slower replica, while others' streams go on."
        ),
        setup={
            "base": base.name,
            "adapter": f"rank {options.rank} on all linear modules, {copies.nbytes} bytes",
            "replicas": 2,
            "slots per replica": options.slots,
            "streams": options.streams,
        },
        problems=[*listeners.problems, *sorted(set(swapping.problems))],
    )
    disk = swapping.swaps["host"].hits["disk"]
    for kind, limit in LIMITS_S.items():
        found = swapping.swaps[kind].both
        result.verdicts += [
            *(
                [Verdict("requests of swaps from host that went to the disk", disk, 0)]
                if kind == "host"
                else []
            ),
            Verdict(f"swaps from {kind}", len(found), options.swaps, True),
            Verdict(f"from {kind}, on both replicas, median", median(found) * 1e3, limit * 1e3),
            Verdict(
                f"from {kind}, on both replicas, p95", percentile(found, 0.95) * 1e3, limit * 1e3
            ),
            Verdict(
                f"p99 between tokens during swaps from {kind}, of the quiet one",
                percentile(listeners.gaps[f"swaps from {kind}"], 0.99) / quiet,
                PAUSE,
            ),
        ]
    result.tables += [
        Table(
            "From the request to the first token",
            (
                "from",
                "swaps",
                "ready, ms",
                "first replica",
                "both, median",
                "p95",
                "most",
                *(f"found on {tier}" for tier in TIERS),
            ),
            tuple(
                (
                    kind,
                    len(swaps.both),
                    round(median(swaps.ready) * 1e3),
                    round(median(swaps.first) * 1e3),
                    round(median(swaps.both) * 1e3),
                    round(percentile(swaps.both, 0.95) * 1e3),
                    round(max(swaps.both) * 1e3),
                    *(swaps.hits[tier] for tier in TIERS),
                )
                for kind, swaps in sorted(swapping.swaps.items())
                if swaps.both
            ),
            note=(
                "Ready: the administrator's requests were answered. Found: requests by the tier in "
                "which their replica had the weights when they came, those of the streams "
                "included; an addition brings its weights to the devices itself."
            ),
        ),
        Table(
            "Between the tokens of running streams",
            ("window", "tokens", "median, ms", "p99", "most"),
            tuple(
                (
                    window,
                    len(gaps),
                    round(median(gaps) * 1e3, 1),
                    round(percentile(gaps, 0.99) * 1e3, 1),
                    round(max(gaps) * 1e3, 1),
                )
                for window, gaps in sorted(listeners.gaps.items())
                if window not in ("warm-up", "between") and gaps
            ),
        ),
    ]
    return result
