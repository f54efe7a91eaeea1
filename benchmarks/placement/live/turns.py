"""A live cluster that serves the same requests with placement on and off, in turns."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.adapters.base_models import base_model
from benchmarks.adapters.copies import Copies
from benchmarks.adapters.proof_cluster import sources_of, start_proof_cluster
from cluster.simulation.trace import ServedFacts, TraceRequest
from cluster.simulation.traces.trace_file import load_trace, read_header
from cluster.tenancy.quickstart import ADMIN_TENANT, DEMO_TENANTS
from testing.admin_client import Admin
from testing.local_cluster import LocalCluster
from testing.timed_request import ask

MODES = ("on", "off")
TRACE = "trace.jsonl"
RANK = 8
TOKENS = range(100, 40_000)
"""Ids that prompts are made of."""
NOTICE_S = 5.0
"""The controller has surely read the policy file after that, and decided by it."""
FLUSHED_S = 2.0
"""After this time the trace log has been written, and replicas have reported what they loaded."""


@dataclass(frozen=True, slots=True)
class TurnSetup:
    """The cluster of a measurement in turns."""

    base: str  # "tiny", "135m", a hub id or a folder
    adapters: int
    replicas: int
    slots: int
    host_mib: int  # of each replica, for adapters


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One request of a turn, and what became of it by the front's trace log."""

    at: float  # seconds since the turn began
    served: ServedFacts


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a round."""

    mode: str
    requests: tuple[TurnRequest, ...]  # by time
    failed: int  # by the client's word
    loads: int  # to devices, in the whole turn and by its mode's first plan
    loaded_mb: float


@dataclass
class TurnCluster:
    """The cluster, and the file that its controller follows."""

    cluster: LocalCluster
    base: str  # the base's name in requests
    folder: Path
    setup: TurnSetup

    @classmethod
    @contextlib.contextmanager
    def running(cls, folder: Path, setup: TurnSetup) -> Iterator["TurnCluster"]:
        """Run it with its adapters while the block lasts."""
        folder.mkdir(parents=True, exist_ok=True)
        base = base_model(setup.base, folder / "base")
        write_mode(folder, setup.replicas, "off")
        cluster = start_proof_cluster(
            folder / "state",
            base.served,
            replicas=setup.replicas,
            front={"trace_log": {"path": folder / TRACE}},
            engine={"max_model_len": 256, "threads": 1},
            adapters={"slots": setup.slots, "host_bytes": setup.host_mib * 2**20},
            controller={"policy_file": _policy(folder)},
        )
        try:
            found = cls(cluster, base.called, folder, setup)
            asyncio.run(found.add_adapters(Copies(base.path, folder / "made", RANK, seed=0)))
            yield found
        finally:
            cluster.stop()

    async def add_adapters(self, copies: Copies) -> None:
        """Add the adapters, and ask for each once."""
        async with self.cluster.client(ADMIN_TENANT) as client:
            admin = Admin(client)
            for number in range(self.setup.adapters):
                name = name_of(number)
                copies.write(sources_of(self.cluster.state) / name, number)
                await admin.add_folder(name, name)
        async with self.cluster.client(DEMO_TENANTS[0]) as client:
            for number in range(self.setup.adapters):
                body = {"model": name_of(number), "prompt": [100 + number], "max_tokens": 4}
                reply = await ask(client, body)
                if reply.status != 200:
                    raise RuntimeError(f"{name_of(number)}: {reply.status} {reply.code}")

    def take_turns(self, rounds: Sequence[Sequence[TraceRequest]]) -> list[Turn]:
        """Serve each round's requests in both modes; the one that begins changes each round."""
        turns = []
        for number, requests in enumerate(rounds):
            for mode in MODES if number % 2 == 0 else reversed(MODES):
                print(f"  round {number + 1} of {len(rounds)}, placement {mode}", flush=True)
                turns.append(self._turn(mode, requests))
        return turns

    def _turn(self, mode: str, requests: Sequence[TraceRequest]) -> Turn:
        loads, nbytes = self._loaded()
        write_mode(self.folder, self.setup.replicas, mode)
        time.sleep(NOTICE_S)
        began = time.time()
        failed = asyncio.run(self._send(requests))
        time.sleep(FLUSHED_S)
        loads_after, nbytes_after = self._loaded()
        return Turn(
            mode,
            tuple(logged(self.folder, began)),
            failed,
            loads_after - loads,
            (nbytes_after - nbytes) / 1e6,
        )

    def _loaded(self) -> tuple[int, int]:
        """Return how many adapters all replicas have loaded since they began, and their bytes."""
        answer = self.cluster.get("/admin/v1/status", ADMIN_TENANT).json()
        totals = [
            one["work"][tier] for one in answer["replicas"] for tier in ("host_loads", "disk_loads")
        ]
        return sum(one["loads"] for one in totals), sum(one["nbytes"] for one in totals)

    async def _send(self, requests: Sequence[TraceRequest]) -> int:
        """Send all requests at their times; returns how many had no whole answer."""
        failed = 0
        async with contextlib.AsyncExitStack() as stack:
            clients = {
                f"tenant-{number}": await stack.enter_async_context(self.cluster.client(tenant))
                for number, tenant in enumerate(DEMO_TENANTS)
            }
            began = time.monotonic()

            async def send(number: int, request: TraceRequest) -> None:
                nonlocal failed
                await asyncio.sleep(began + request.at - time.monotonic())
                reply = await ask(clients[request.tenant], self._body(request, number))
                failed += reply.status != 200 or bool(reply.code or reply.problem)

            async with asyncio.TaskGroup() as group:
                for number, request in enumerate(requests):
                    group.create_task(send(number, request))
        return failed

    def _body(self, request: TraceRequest, number: int) -> dict[str, Any]:
        weight = 1 / len(request.adapters)
        return {
            "model": self.base,
            "adapters": [{"name": name, "weight": weight} for name in request.adapters],
            "prompt": Random(number).choices(TOKENS, k=request.prompt_tokens),
            "max_tokens": request.generated_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }


def name_of(number: int) -> str:
    """Return the name of a numbered adapter, as ``AdapterNames`` has it."""
    return f"a{number:04d}"


def write_mode(folder: Path, replicas: int, mode: str) -> None:
    """Put a policy in force with a fixed count and this mode of placement."""
    path = _policy(folder)
    fresh = path.with_suffix(".new")
    policy = {"replicas": {"min": replicas, "max": replicas}, "placement": {"mode": mode}}
    fresh.write_text(json.dumps(policy))
    fresh.replace(path)


def _policy(folder: Path) -> Path:
    return folder / "policy.json"


def logged(folder: Path, began: float) -> Iterator[TurnRequest]:
    """Yield the requests that came since a moment (wall clock), by time."""
    files = sorted(folder.glob(f"{Path(TRACE).stem}*.jsonl*"))
    start = min(read_header(path).start or 0.0 for path in files)
    for request in sorted(load_trace(files), key=lambda one: one.at):
        if request.served is not None and start + request.at >= began:
            yield TurnRequest(start + request.at - began, request.served)
