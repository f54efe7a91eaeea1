"""Records a live cluster under a changing load, for `benchmarks.placement.recording.replay`.

Starts a cluster of its own with random adapters, more than its slots hold, and sends streams at
given times, whatever becomes of those before. Client, front and replicas share the machine's cores,
so keep the rate moderate: a step that waits for a core is slower than the model can know.
"""

import argparse
import asyncio
import contextlib
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import httpx2

from benchmarks.adapters.base_models import QUICKSTART, BaseModel, base_model
from benchmarks.placement.recording.recording import TRACE, RecordedAdapter, Recording
from benchmarks.placement.recording.work_log import EVERY_S, WORK, busy_shares, log_work, read_work
from benchmarks.shared.machine import load_average
from benchmarks.shared.quiet import quiet
from cluster.adapters.random_adapters import write_adapters
from cluster.config import AppConfig
from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.arrivals import Diurnal
from cluster.simulation.traces.asking import AdapterNames, Mixtures, OneByPopularity
from cluster.simulation.traces.lengths import LogNormalLength
from cluster.simulation.traces.popularity import zipf
from cluster.simulation.traces.prompt_prefixes import BLOCK_TOKENS, SystemPrompts
from cluster.simulation.traces.stream import TraceStream, generate
from cluster.tenancy.quickstart import ADMIN_TENANT, DEMO_TENANTS, write_demo_tenants
from cluster.tenancy.tenants import ALL_ADAPTERS
from deployments.front.telemetry.trace_log import DIGEST_CHARACTERS
from deployments.local import lifecycle
from deployments.local.local_state import StateDir
from testing.admin_client import Admin
from testing.local_cluster import LocalCluster, show_phase
from testing.timed_request import ask

RANK = 8
TOKENS = range(100, 40_000)
"""Ids that prompts are made of."""
FLUSHED_S = 2.0
"""After this time the trace log has been written."""


def load_of(options: argparse.Namespace) -> list[TraceRequest]:
    """Return the requests to send: a rate that rises and falls, ranks that rotate, some pairs."""
    duration_s = 60 * options.minutes
    names = AdapterNames(len(DEMO_TENANTS))
    first = OneByPopularity(zipf(options.adapters, 1.0), names, options.rotate_s, shift=3)
    stream = TraceStream(
        Diurnal(options.rate, 0.6, duration_s / 2),
        Mixtures(first, (1 - options.pairs, options.pairs), block=2),
        LogNormalLength(48, 0.5, 8, 192),
        LogNormalLength(16, 0.5, 4, 48),
        SystemPrompts(share=0.5, tokens=2 * BLOCK_TOKENS),
    )
    return list(generate([stream], options.seed, duration_s))


def body_of(request: TraceRequest, base: str, number: int) -> dict[str, Any]:
    """Return the request's body: prompts share what their chains of hashes share."""
    prompt: list[int] = []
    for block in request.prefix:
        prompt += Random(block).choices(TOKENS, k=BLOCK_TOKENS)
    prompt += Random(f"{number}").choices(TOKENS, k=request.prompt_tokens - len(prompt))
    body: dict[str, Any] = {
        "prompt": prompt,
        "max_tokens": request.generated_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    adapters = [alias_of(name) for name in request.adapters]
    if len(adapters) == 1:
        return {**body, "model": adapters[0]}
    weight = 1 / len(adapters)
    return {**body, "model": base, "adapters": [{"name": n, "weight": weight} for n in adapters]}


def alias_of(name: str) -> str:
    """Return the random adapter that stands for a numbered one."""
    return f"random-{int(name[1:]):02d}"


def start_cluster(
    folder: Path, out: Path, base: BaseModel, options: argparse.Namespace
) -> LocalCluster:
    """Start the cluster with its adapters and a trace log."""
    adapters = folder / "adapters"
    write_adapters(base.path, adapters, options.adapters, RANK, options.seed)

    def make_config(state: StateDir, port: int) -> AppConfig:
        rights = {tenant: [ALL_ADAPTERS] for tenant in DEMO_TENANTS}
        write_demo_tenants(state.tenants, state.keys, rights, secrets.token_bytes)
        return AppConfig.model_validate(
            {
                "model": base.served,
                "tenants_file": state.tenants,
                "adapters_dir": adapters,
                "front": {"port": port, "trace_log": {"path": out / TRACE}},
                "replica": {"replicas": options.replicas},
                "engine": {"threads": lifecycle.default_threads(options.replicas)},
                "adapters": {"slots": options.slots, "host_bytes": options.host_mib * 2**20},
            }
        )

    return LocalCluster.start(folder / "state", make_config, show_phase)


async def send_load(
    cluster: LocalCluster, base: str, requests: Sequence[TraceRequest], out: Path
) -> tuple[float, Counter[str]]:
    """Send all requests at their times, and log the replicas' work meanwhile.

    Returns when it began (wall clock), and outcomes.
    """
    outcomes: Counter[str] = Counter()
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, httpx2.AsyncClient] = {}
        for number, tenant in enumerate(DEMO_TENANTS):
            clients[f"tenant-{number}"] = await stack.enter_async_context(cluster.client(tenant))
        operator = await stack.enter_async_context(cluster.client(ADMIN_TENANT))
        began, begin = time.monotonic(), time.time()
        logging = asyncio.create_task(log_work(operator, began, out / WORK))

        async def send(number: int, request: TraceRequest) -> None:
            await asyncio.sleep(began + request.at - time.monotonic())
            reply = await ask(clients[request.tenant], body_of(request, base, number))
            outcomes[reply.code or reply.problem or "ok"] += 1

        async with asyncio.TaskGroup() as group:
            for number, request in enumerate(requests):
                group.create_task(send(number, request))
        await asyncio.sleep(EVERY_S)
        logging.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await logging
    return begin, outcomes


async def warm_up(cluster: LocalCluster, base: str, options: argparse.Namespace) -> None:
    """Ask for every adapter once, so that programs are compiled and files are in memory."""
    async with cluster.client(DEMO_TENANTS[0]) as client:
        for number in range(options.adapters):
            body = {"model": f"random-{number:02d}", "prompt": [100 + number], "max_tokens": 8}
            await asyncio.gather(*(ask(client, body) for _ in range(options.replicas)))
        await ask(client, {"model": base, "prompt": [100], "max_tokens": 8})


async def sizes_of(cluster: LocalCluster) -> tuple[RecordedAdapter, ...]:
    """Return all adapters that any replica has in memory, with their sizes there."""
    async with cluster.client(ADMIN_TENANT) as client:
        reports = await Admin(client).residency()
    found: dict[str, RecordedAdapter] = {}
    for report in reports:
        for one in (*report["on_host"], *report["resident"]):
            digest = one["digest"]
            name = f"{one['alias']}@{digest[:DIGEST_CHARACTERS]}"
            found[digest] = RecordedAdapter(name, digest, one["nbytes"], one["rank"])
    return tuple(sorted(found.values(), key=lambda adapter: adapter.name))


def record(options: argparse.Namespace) -> None:
    """Make one recording."""
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise SystemExit(f"{out}: is not empty; name another folder with --out")
    folder = Path(tempfile.mkdtemp(prefix="braid-record-"))
    requests = load_of(options)
    print(f"{len(requests)} requests in {options.minutes:g} minutes", flush=True)
    try:
        base = base_model(options.model, folder / "base")
        cluster = start_cluster(folder, out, base, options)
        try:
            with quiet():
                asyncio.run(warm_up(cluster, base.called, options))
                adapters = asyncio.run(sizes_of(cluster))
                begin, outcomes = asyncio.run(send_load(cluster, base.called, requests, out))
            answer = cluster.get("/admin/v1/model", ADMIN_TENANT)
            time.sleep(FLUSHED_S)
            config = cluster.config
            recording = Recording(
                model=base.name,
                replicas=options.replicas,
                slots=config.adapters.slots,
                adapter_bytes=config.adapters.memory_bytes,
                host_bytes=config.adapters.host_bytes,
                engine=config.engine.model_dump(mode="json"),
                adapters=adapters,
                begin=begin,
                counts=((0.0, options.replicas),),
                costs=answer.json() if answer.status_code == 200 else {},
                notes=(
                    "client, front and replicas share this machine's cores",
                    f"load average {load_average()}",
                    *(() if answer.status_code == 200 else ("costs are constants",)),
                ),
            )
            recording.save(out)
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    busy = ", ".join(f"{share:.0%}" for share in busy_shares(read_work(out)).values())
    print(f"{out}: {dict(outcomes)}; {len(adapters)} adapters; replicas computed for {busy}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.placement.recording.record",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder that is empty or new")
    parser.add_argument("--model", default=QUICKSTART, help="tiny, 135m, or an id or folder")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--adapters", type=int, default=24)
    parser.add_argument("--slots", type=int, default=8, help="of each replica")
    parser.add_argument("--host-mib", type=int, default=512, help="of each replica, for adapters")
    parser.add_argument("--rate", type=float, default=1.2, help="requests per second on average")
    parser.add_argument("--pairs", type=float, default=0.3, help="share of requests for two")
    parser.add_argument("--rotate-s", type=float, default=60.0, help="ranks rotate this often")
    parser.add_argument("--seed", type=int, default=0)
    record(parser.parse_args())


if __name__ == "__main__":
    main()
