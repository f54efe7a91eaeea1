"""Breaks parts of a live cluster under a steady load and counts what happens to requests.

Three replicas on one machine. One stands still (SIGSTOP) for a minute and goes on, one is killed,
and the controller is killed twice. A clock that steps cannot be had live without changing the
machine's: the simulator steps it instead (rows N14 of `benchmarks.placement`).

What the lost replica alone had is followed until it is ready elsewhere (rows N8-live).
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil

from benchmarks.adapters.base_models import QUICKSTART, base_model
from benchmarks.adapters.copies import Copies
from benchmarks.adapters.proof_cluster import sources_of, start_proof_cluster
from benchmarks.adapters.result import ProofResult
from benchmarks.placement.live.fault_report import (
    FIRST_S,
    HANG_S,
    HANGS,
    MOST,
    REPLICAS,
    RESCUED_S,
    STILL_HANGS,
    CountSample,
    FaultLog,
    report,
)
from benchmarks.placement.live.sole_copies import CopiesLost, ReadyLook, copies_lost, look, watching
from benchmarks.placement.live.steady_load import SteadyLoad, SteadyQuestion
from benchmarks.placement.row import ResultRow
from benchmarks.shared.machine import load_average
from benchmarks.shared.quiet import quiet
from cluster.tenancy.quickstart import ADMIN_TENANT, DEMO_TENANTS
from testing.admin_client import Admin
from testing.local_cluster import CONTROLLER, REPLICA, LocalCluster

STEM = "placement-faults"
TENANT = DEMO_TENANTS[0]
DRAIN_S = 90.0
SAMPLE_S = 1.0
STATUS_TIMEOUT_S = 3.0
NOTICE_S = 5.0
"""The controller has surely read the policy file after that, and decided by it."""
LONG_S = 3600.0
"""No fall of the count is due within a run: one that happens is a fault's."""
TOLD_KILLED_S, TOLD_HUNG_S, SERVING_S = 2.0, 5.0, 10.0
BEFORE = (
    "with a hang of 20 s and policy min 3: 0 of 232 failed; longest wait for a first token 18.2 s, "
    "until the replica was continued"
)
"""Figures of the last run before fronts gave up the links of replicas that are silent."""
BEFORE_LOST = "16 s"
"""Until a lost replica's adapters were planned elsewhere, when silence alone was looked at."""


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
    """Run it and return its rows of the table; the page of its own is written as well."""
    options = options_of(arguments)
    result, log = measure(options)
    result.write(options.out, STEM)
    return [
        ResultRow(
            name="faults",
            what=(
                f"live, 3 replicas, policy min 1: one hangs for {HANG_S:g} s, one is killed, the "
                "controller is killed twice; requests that failed or got other tokens, waits and "
                "pauses, and the count"
            ),
            before=BEFORE,
            demanded=(
                f"0 failed; waits and pauses <= {RESCUED_S:g} s; wanted replicas never below "
                f"{REPLICAS}"
            ),
            after=(
                f"{log.lost} of {result.setup['requests']} failed; longest wait for a first token "
                f"{log.longest_wait:.1f} s, longest pause within an answer "
                f"{log.longest_pause:.1f} s; {log.picked_hung} sent to the hung replica after "
                f"{FIRST_S:g} s; least wanted {log.least_wanted}, where the load asks for "
                f"{log.least_wish}"
            ),
            interval="one run",
            met=result.holds,
        ),
        _lost_row("killed", log.killed, TOLD_KILLED_S),
        _lost_row("hung", log.hung, TOLD_HUNG_S),
    ]


def _lost_row(how: str, lost: CopiesLost | None, told_s: float) -> ResultRow:
    assert lost is not None
    return ResultRow(
        name=f"N8-live-{how}",
        what=f"live, 3 replicas under load: one is {how}; the last of what it alone had",
        before=BEFORE_LOST,
        demanded=f"told elsewhere <= {told_s:g} s, ready there <= {SERVING_S:g} s",
        after=f"{lost.words} ({lost.copies} adapters)",
        interval="one run",
        met=lost.told_s <= told_s and lost.serving_s <= SERVING_S,
    )


def measure(options: argparse.Namespace) -> tuple[ProofResult, FaultLog]:
    """Start a cluster, break its parts in turn, and stop it."""
    folder = options.state or Path(tempfile.mkdtemp(prefix="braid-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    before = load_average()
    with quiet():
        base = base_model(options.base, folder / "base")
        policy = folder / "policy.json"
        write_policy(policy, least=REPLICAS)
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
            log, books = asyncio.run(_run(cluster, copies, policy, options))
        finally:
            cluster.stop()
    result = report(options, base.name, log, books)
    result.load_before = before
    return result, log


def write_policy(path: Path, *, least: int) -> None:
    """Put a policy in force that allows ``least`` replicas or more."""
    fresh = path.with_suffix(".new")
    bounds = {"min": least, "max": MOST, "down": {"stable": LONG_S}}
    fresh.write_text(json.dumps({"replicas": bounds}))
    fresh.replace(path)


async def _run(
    cluster: LocalCluster, copies: Copies, policy: Path, options: argparse.Namespace
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
        write_policy(policy, least=1)
        await asyncio.sleep(NOTICE_S)
        async with _sampling(cluster, log):
            await _break_parts(cluster, load, log, options.phase_s)
            await load.drain(DRAIN_S)
        books = await admin.unrest(60.0)
    return log, books


async def _break_parts(
    cluster: LocalCluster, load: SteadyLoad, log: FaultLog, phase_s: float
) -> None:
    hanging, dying, *_ = cluster.replicas()
    await load.run_phase("calm", phase_s)
    async with _losing(cluster, hanging) as (process, before, looks, at):
        process.suspend()
        try:
            await load.run_phase(HANGS, FIRST_S)
            await load.run_phase(STILL_HANGS, HANG_S - FIRST_S)
        finally:
            _resume(process)
    log.hung = copies_lost(hanging["replica_id"], at, before, looks, await _history(cluster))
    await load.run_phase("A goes on", phase_s)
    async with _losing(cluster, dying) as (process, before, looks, at):
        process.kill()
        await load.run_phase("B is killed", 1.5 * phase_s)
    log.killed = copies_lost(dying["replica_id"], at, before, looks, await _history(cluster))
    for name in ("the controller is killed", "it is killed again"):
        for controller in await asyncio.to_thread(cluster.actors, CONTROLLER):
            controller.kill()
        await load.run_phase(name, phase_s)
    await load.run_phase("calm again", phase_s)


@asynccontextmanager
async def _losing(
    cluster: LocalCluster, replica: dict[str, Any]
) -> AsyncIterator[tuple[psutil.Process, ReadyLook, list[ReadyLook], float]]:
    """Watch where adapters are while the block stops a replica's process."""
    process = await asyncio.to_thread(cluster.process_of, replica)
    before = await asyncio.to_thread(look, cluster)
    async with watching(cluster) as looks:
        yield process, before, looks, time.time()


async def _history(cluster: LocalCluster) -> list[dict[str, Any]]:
    answer = await asyncio.to_thread(cluster.get, "/admin/v1/placement", ADMIN_TENANT)
    return list(answer.json()["history"])


def _resume(process: psutil.Process) -> None:
    try:
        process.resume()
    except psutil.NoSuchProcess:
        return  # it was ended while it hung


@asynccontextmanager
async def _sampling(cluster: LocalCluster, log: FaultLog) -> AsyncIterator[None]:
    """Look at the replica count once a second while the block runs."""
    began = time.perf_counter()

    async def go_on() -> None:
        while True:
            log.samples.append(await asyncio.to_thread(_sample, cluster, began))
            await asyncio.sleep(SAMPLE_S)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _sample(cluster: LocalCluster, began: float) -> CountSample:
    state: dict[str, Any] = {}
    with suppress(httpx2.HTTPError, ValueError):  # the front asks the controller, which may be down
        state = cluster.get("/admin/v1/placement", ADMIN_TENANT, STATUS_TIMEOUT_S).json()
    wishes = state.get("scaling", {}).get("wishes", {})
    return CountSample(
        time.perf_counter() - began,
        len(cluster.actors(REPLICA)),
        state.get("replica_count"),
        max(wishes.values(), default=None),
    )


def main() -> None:
    """Print the page."""
    options = options_of()
    result, _ = measure(options)
    result.write(options.out, STEM)
    print(result.page())


if __name__ == "__main__":
    main()
