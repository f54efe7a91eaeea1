"""Breaks parts of a live cluster under a steady load and counts what happens to requests.

Three replicas on one machine. One hangs (SIGSTOP) and goes on, one is killed, and the controller
is killed twice. A clock that steps cannot be had live without changing the machine's: the simulator
steps it instead (rows N14 of `benchmarks.placement`).
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil

from benchmarks.adapters.base_models import QUICKSTART, base_model
from benchmarks.adapters.copies import Copies
from benchmarks.adapters.proof_cluster import sources_of, start_proof_cluster
from benchmarks.adapters.result import ProofResult, ProofVerdict, Table, median, percentile
from benchmarks.placement.live.steady_load import (
    SteadyLoad,
    SteadyOutcome,
    SteadyPhase,
    SteadyQuestion,
)
from benchmarks.placement.row import ResultRow
from benchmarks.shared.machine import load_average
from benchmarks.shared.quiet import quiet
from cluster.tenancy.quickstart import DEMO_TENANTS
from testing.admin_client import Admin
from testing.local_cluster import CONTROLLER, REPLICA, LocalCluster

STEM = "placement-faults"
TENANT = DEMO_TENANTS[0]
REPLICAS, MOST = 3, 4
HANG_S = 20.0
DRAIN_S = 90.0
SAMPLE_S = 1.0
_LOST = (SteadyOutcome.FAILED, SteadyOutcome.OTHER, SteadyOutcome.LATE)
STATUS_TIMEOUT_S = 3.0
BEFORE = (
    "0 of 232 failed; longest wait for a first token 18.2 s; 0 sent to the hung replica after 5 s"
)
"""Figures of the same command before picks, plans and counts were changed."""


@dataclass
class CountSample:
    """The cluster at one moment."""

    at: float  # seconds since the load began
    processes: int  # replicas that run, hung ones included
    wanted: int | None  # by the controller; None: it did not answer


@dataclass
class FaultLog:
    """Everything that was seen."""

    phases: list[SteadyPhase] = field(default_factory=list)
    samples: list[CountSample] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)  # replica id -> A, B, C, ...

    def name_of(self, replica_id: str) -> str:
        """Return a replica's letter; new replicas get the next."""
        return self.names.setdefault(replica_id, chr(ord("A") + len(self.names)))


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; without one, the defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.placement.live.live_faults", description=__doc__
    )
    parser.add_argument("--base", default=QUICKSTART, help='"tiny", "135m", a hub id or a folder')
    parser.add_argument("--rate", type=float, default=1.5, help="requests per second")
    parser.add_argument("--tokens", type=int, default=24, help="of each answer")
    parser.add_argument("--adapters", type=int, default=12)
    parser.add_argument("--slots", type=int, default=8, help="of each replica")
    parser.add_argument("--phase-s", type=float, default=20.0, help="length of a phase")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--state", type=Path, help="working folder; default: a temporary one")
    return parser.parse_args(arguments)


def rows(arguments: Sequence[str] = ()) -> list[ResultRow]:
    """Run it and return its row of the table; the page of its own is written as well."""
    options = options_of(arguments)
    result = measure(options)
    result.write(options.out, STEM)
    failed, hung, lowest, longest = (verdict.found for verdict in result.verdicts)
    return [
        ResultRow(
            name="faults",
            what=(
                "live, 3 replicas: one hangs for 20 s, one is killed, the controller is killed "
                "twice; requests that failed or got other tokens"
            ),
            before=BEFORE,
            demanded=f"0 failed; wanted replicas never below {REPLICAS}",
            after=(
                f"{failed:.0f} of {result.setup['requests']} failed; longest wait for a first "
                f"token {longest:.1f} s; {hung:.0f} sent to the hung replica after 5 s; least "
                f"wanted {lowest:.0f}"
            ),
            interval="one run",
            met=result.holds,
        )
    ]


def measure(options: argparse.Namespace) -> ProofResult:
    """Start a cluster, break its parts in turn, and stop it."""
    folder = options.state or Path(tempfile.mkdtemp(prefix="braid-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    before = load_average()
    with quiet():
        base = base_model(options.base, folder / "base")
        policy = folder / "policy.json"
        policy.write_text(json.dumps({"replicas": {"min": REPLICAS, "max": MOST}}))
        cluster = start_proof_cluster(
            folder / "state",
            base.served,
            replicas=REPLICAS,
            adapters={"slots": options.slots},
            engine={"max_model_len": 256},
            controller={"policy_file": policy},
        )
        try:
            copies = Copies(base.path, folder / "made", rank=8, seed=options.seed)
            log, books = asyncio.run(_run(cluster, copies, options))
        finally:
            cluster.stop()
    result = report(options, base.name, log, books)
    result.load_before = before
    return result


async def _run(
    cluster: LocalCluster, copies: Copies, options: argparse.Namespace
) -> tuple[FaultLog, list[str]]:
    rng = random.Random(options.seed)
    log = FaultLog()
    async with cluster.client() as admin_client, cluster.client(TENANT) as client:
        admin = Admin(admin_client)
        questions = []
        for number in range(options.adapters):
            name = f"adapter-{number}"
            copies.write(sources_of(cluster.state) / name, number)
            await admin.add_folder(name, name)
            prompt = tuple(rng.randrange(100, 40_000) for _ in range(24))
            questions.append(SteadyQuestion(name, prompt))
        load = SteadyLoad(client, questions, options.rate, options.tokens, rng)
        await load.learn_answers()
        log.phases = load.phases
        for replica in cluster.replicas():
            log.name_of(replica["replica_id"])
        async with _sampling(cluster, log):
            await _break_parts(cluster, load, options.phase_s)
            await load.drain(DRAIN_S)
        books = await admin.unrest(60.0)
    return log, books


async def _break_parts(cluster: LocalCluster, load: SteadyLoad, phase_s: float) -> None:
    hanging, dying, *_ = await asyncio.to_thread(
        lambda: [cluster.process_of(replica) for replica in cluster.replicas()]
    )
    await load.run_phase("calm", phase_s)
    hanging.suspend()
    try:
        await load.run_phase("A hangs, its first 5 s", 5.0)
        await load.run_phase("A hangs", HANG_S - 5.0)
    finally:
        _resume(hanging)
    await load.run_phase("A goes on", phase_s)
    dying.kill()
    await load.run_phase("B is killed", 1.5 * phase_s)
    for name in ("the controller is killed", "it is killed again"):
        for controller in await asyncio.to_thread(cluster.actors, CONTROLLER):
            controller.kill()
        await load.run_phase(name, phase_s)
    await load.run_phase("calm again", phase_s)


def _resume(process: psutil.Process) -> None:
    try:
        process.resume()
    except psutil.NoSuchProcess:
        return  # it was ended while it hung


@asynccontextmanager
async def _sampling(cluster: LocalCluster, log: FaultLog) -> AsyncIterator[None]:
    """Look at the replica count once a second while the block runs."""
    began = time.perf_counter()

    async def look() -> None:
        while True:
            log.samples.append(await asyncio.to_thread(_sample, cluster, began))
            await asyncio.sleep(SAMPLE_S)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _sample(cluster: LocalCluster, began: float) -> CountSample:
    wanted: Any = None
    try:
        answer = cluster.get("/admin/v1/status", "admin", STATUS_TIMEOUT_S)
        wanted = answer.json().get("placement", {}).get("replica_count")
    except (httpx2.HTTPError, ValueError):
        pass  # the front asks the controller, which may be down
    return CountSample(time.perf_counter() - began, len(cluster.actors(REPLICA)), wanted)


def report(
    options: argparse.Namespace, base: str, log: FaultLog, books: Sequence[str]
) -> ProofResult:
    """Make the result."""
    outcomes = sum((phase.outcomes for phase in log.phases), Counter[SteadyOutcome]())
    lost = sum(
        outcomes[kind] for kind in (SteadyOutcome.FAILED, SteadyOutcome.OTHER, SteadyOutcome.LATE)
    )
    wanted = [sample.wanted for sample in log.samples if sample.wanted is not None]
    hung = next(phase for phase in log.phases if phase.name == "A hangs")
    longest = max((wait for phase in log.phases for wait in phase.ttft), default=float("nan"))
    letters = {log.name_of(replica) for phase in log.phases for replica in phase.picks}
    ids = {letter: replica for replica, letter in log.names.items()}
    errors = sum((phase.errors for phase in log.phases), Counter[str]())
    return ProofResult(
        title="Requests while parts of the cluster break",
        command="python -m benchmarks.placement faults",
        summary=(
            "A request counts to the phase that sent it. Refused: 429 or 503 before its first "
            "token, which tells the client to come back."
        ),
        setup={
            "base": base,
            "replicas": f"{REPLICAS} to {MOST}",
            "adapters": f"{options.adapters} over {options.slots} slots a replica",
            "requests": outcomes.total(),
            "arrivals": f"Poisson, {options.rate:g}/s, {options.tokens} tokens each",
            "seed": options.seed,
        },
        verdicts=[
            ProofVerdict("requests that failed, did not end or got other tokens", lost, 0),
            ProofVerdict(
                "answered by the hung replica of those sent after 5 s", hung.picks[ids["A"]], 0
            ),
            ProofVerdict("least replicas wanted", min(wanted, default=0), REPLICAS, at_least=True),
            ProofVerdict("longest wait for a first token", longest, HANG_S, unit=" s"),
        ],
        problems=[*books, *(f"{count} times {error}" for error, count in errors.items())],
        tables=[
            Table(
                "Requests by phase",
                ("phase", "s", "sent", *SteadyOutcome, "TTFT p50, ms", "p99", "longest, s"),
                tuple(
                    (
                        phase.name,
                        phase.seconds,
                        phase.outcomes.total(),
                        *(phase.outcomes[kind] for kind in SteadyOutcome),
                        round(median(phase.ttft) * 1e3),
                        round(percentile(phase.ttft, 0.99) * 1e3),
                        round(max(phase.ttft, default=float("nan")), 2),
                    )
                    for phase in log.phases
                ),
            ),
            Table(
                "Answers by phase and replica",
                ("phase", *sorted(letters)),
                tuple(
                    (phase.name, *(phase.picks[ids[letter]] for letter in sorted(letters)))
                    for phase in log.phases
                ),
                note="A replica is the one whose token came last. Later letters replaced others.",
            ),
            Table(
                "Replicas over time",
                ("s", "processes", "wanted"),
                tuple(_changes(log.samples)),
                note="Changes only. -: the controller did not answer.",
            ),
        ],
    )


def _changes(samples: Sequence[CountSample]) -> list[tuple[str, int, int | str]]:
    lines: list[tuple[str, int, int | str]] = []
    for sample in samples:
        line = (
            f"{sample.at:.0f}",
            sample.processes,
            "-" if sample.wanted is None else sample.wanted,
        )
        if not lines or lines[-1][1:] != line[1:]:
            lines.append(line)
    return lines


if __name__ == "__main__":
    made = measure(options_of())
    made.write(options_of().out, STEM)
    print(made.page())
