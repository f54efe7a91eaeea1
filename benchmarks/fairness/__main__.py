"""Prove on a local cluster that tenants share a replica. Exit status 1: it is not so.

Long prompts: one tenant has them computed all the time, while another asks for short answers.
A full batch: one tenant asks for long answers, many at once, while another asks for short ones.
Weights: two tenants that always have requests waiting are served tokens by their weights, and new
weights, by `braid policy apply`, are in force without a restart.
"""

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from benchmarks.adapters.base_models import QUICKSTART, BaseModel, base_model
from benchmarks.adapters.proof_cluster import sources_of, start_proof_cluster
from benchmarks.adapters.result import ProofResult
from benchmarks.fairness.backlog import (
    Backlog,
    backlog_tables,
    judge_backlog,
    measure_backlog,
)
from benchmarks.fairness.full_batch import (
    FullBatch,
    full_batch_tables,
    judge_full_batch,
    measure_full_batch,
)
from benchmarks.fairness.long_prompts import (
    LongPrompts,
    judge_long_prompts,
    long_prompts_tables,
    measure_long_prompts,
)
from benchmarks.fairness.tenant_load import TenantLoad
from benchmarks.shared.command_line import without_places
from benchmarks.shared.machine import load_average
from benchmarks.shared.quiet import quiet
from cluster.adapters.random_adapters import write_adapters
from cluster.tenancy.quickstart import ADMIN_TENANT, DEMO_TENANTS
from testing.admin_client import Admin
from testing.local_cluster import LocalCluster

PROGRAM = "python -m benchmarks.fairness"
TIMEOUT_S = 3600.0
"""Of a request: the last ones of a flood wait for all others."""
REST_S = 60.0
SHOWN = 10


def main() -> None:
    """Run the command."""
    options = _parser().parse_args()
    options.command = " ".join((PROGRAM, *without_places(sys.argv[1:])))
    folder = options.state or Path(tempfile.mkdtemp(prefix="braid-fairness-"))
    with quiet():
        base = base_model(options.base, folder / "base")
        before = load_average()
        result = run(options, base, folder)
    result.load_before = before
    result.write(options.out, "fairness")
    print(result.page())
    if options.state is None and result.holds:
        shutil.rmtree(folder)
    sys.exit(0 if result.holds else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default=QUICKSTART, help='"tiny", "135m", a hub id or a folder')
    parser.add_argument("--rank", type=int, default=16, help="of both adapters")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--long-prompt-tokens", type=int, default=1500)
    parser.add_argument("--long-streams", type=int, default=4, help="long prompts at once")
    parser.add_argument("--short-answers", type=int, default=8, help="next to long prompts")
    parser.add_argument("--short-tokens", type=int, default=12, help="of each")
    parser.add_argument("--streams", type=int, default=160, help="of the flood, at once")
    parser.add_argument("--tokens", type=int, default=400, help="of each")
    parser.add_argument("--rounds", type=int, default=1, help="floods with another tenant")
    parser.add_argument("--single-tokens", type=int, default=8, help="of a single request")
    parser.add_argument("--single-prompt-tokens", type=int, default=16)
    parser.add_argument("--gap-s", type=float, default=1.0, help="least time from one to the next")
    parser.add_argument("--window-s", type=float, default=16.0, help="with and without them")
    parser.add_argument("--room-s", type=float, default=120.0, help="with one row free")
    parser.add_argument("--backlog", type=int, default=64, help="requests of each tenant at once")
    parser.add_argument("--backlog-tokens", type=int, default=64, help="of each")
    parser.add_argument("--seconds", type=float, default=180.0, help="of a backlog")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--state", type=Path, help="working folder; default: a temporary one")
    return parser


def run(options: argparse.Namespace, base: BaseModel, folder: Path) -> ProofResult:
    """Run the proof on a cluster of its own."""
    cluster = start_proof_cluster(
        folder / "state", base.served, replicas=1, front={"request_timeout_s": TIMEOUT_S}
    )
    problems: list[str] = []
    try:
        names = write_adapters(base.path, sources_of(cluster.state), 2, options.rank, seed=0)
        prompts, batch, backlog = asyncio.run(_measure(cluster, names, problems, options))
    finally:
        killed = cluster.stop()
    if killed:
        problems.append(f"processes {killed} had to be killed at the end")
    rows = cluster.config.engine.max_batch_size
    return ProofResult(
        title="One replica, shared by tenants",
        command=options.command,
        summary="Two tenants, each with an adapter of its own, on one replica.",
        setup={
            "base": base.name,
            "rank": options.rank,
            "rows": rows,
            "prompt tokens": options.prompt_tokens,
            "of a single request": options.single_prompt_tokens,
        },
        problems=problems[:SHOWN],
        verdicts=[
            *judge_long_prompts(prompts),
            *judge_full_batch(batch),
            *judge_backlog(backlog),
        ],
        tables=[
            *long_prompts_tables(prompts, options),
            *full_batch_tables(batch, rows, options),
            *backlog_tables(backlog, options),
        ],
    )


async def _measure(
    cluster: LocalCluster, adapters: list[str], problems: list[str], options: argparse.Namespace
) -> tuple[LongPrompts, FullBatch, Backlog]:
    first, second = DEMO_TENANTS
    async with (
        cluster.client() as admin_client,
        cluster.client(first, TIMEOUT_S) as first_client,
        cluster.client(second, TIMEOUT_S) as second_client,
    ):
        admin = Admin(admin_client)
        for name in adapters:
            await admin.add_folder(name, name)

        long = TenantLoad(first_client, adapters[0], options.long_prompt_tokens, problems)
        short = TenantLoad(second_client, adapters[1], options.single_prompt_tokens, problems)
        prompts = await measure_long_prompts(long, short, options)
        one = TenantLoad(first_client, adapters[0], options.prompt_tokens, problems)
        single = TenantLoad(second_client, adapters[1], options.single_prompt_tokens, problems)
        rows = cluster.config.engine.max_batch_size
        batch = await measure_full_batch(one, single, rows, options)
        one = TenantLoad(first_client, adapters[0], options.prompt_tokens, problems)
        other = TenantLoad(second_client, adapters[1], options.prompt_tokens, problems)
        backlog = await measure_backlog(
            (first, one), (second, other), lambda weights: _set_weights(cluster, weights), options
        )
        problems += await admin.unrest(REST_S)
        problems += await admin.broken_books(1)
    return prompts, batch, backlog


def _set_weights(cluster: LocalCluster, weights: Mapping[str, float]) -> None:
    """Apply a policy with a tier for each tenant."""
    policy = {
        "version": 2,
        "tiers": {f"of-{tenant}": {"weight": weight} for tenant, weight in weights.items()},
        "tenants": {tenant: f"of-{tenant}" for tenant in weights},
    }
    path = cluster.state.root / "weights.yaml"
    path.write_text(yaml.safe_dump(policy))
    braid = Path(sys.executable).with_name("braid")
    command = (braid, "policy", "apply", path, "--yes", "--json", "--url", cluster.url)
    key = {"BRAID_API_KEY": cluster.keys[ADMIN_TENANT]}
    subprocess.run(command, check=True, env=os.environ | key, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
