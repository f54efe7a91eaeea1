"""Ask a local cluster 1,000 requests of all outcomes, then kill its front. Exit status 1: a line is
missing, late, wrong, or has what it must not have."""

import argparse
import asyncio
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import httpx2

from deployments.local.log_file import log_files
from testing.local_cluster import FRONT, LocalCluster, show_phase
from testing.request_log.asking import Asker
from testing.request_log.log_tail import LogTail
from testing.request_log.logged_cluster import (
    ADAPTER,
    LONG_TOKENS,
    proof_config,
)
from testing.request_log.proof import Proof, ask_all, kill_front


async def prove(cluster: LocalCluster, count: int) -> Proof:
    """Run the whole proof against a running cluster."""
    tail = LogTail(cluster.state.cluster_log)
    try:
        async with httpx2.AsyncClient(base_url=cluster.url, timeout=60) as client:
            asker = Asker(client, cluster.keys, ADAPTER, long_tokens=LONG_TOKENS)
            proof = await ask_all(asker, tail, count)
            (front,) = cluster.listening(FRONT, cluster.port)
            proof.problems += await kill_front(asker, tail, front.kill)
    finally:
        tail.close()
    proof.search(log_files(cluster.state.cluster_log), list(cluster.keys.values()))
    return proof


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.request_log", description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=2)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="braid-request-log-"))
    make_config = partial(proof_config, replicas=options.replicas)
    cluster = LocalCluster.start(folder, make_config, show_phase)
    try:
        proof = asyncio.run(prove(cluster, options.requests))
    finally:
        left = cluster.stop()
    print(f"{len(proof.asked)} requests; outcomes: {dict(proof.outcomes.most_common())}")
    print(f"statuses: {dict(sorted(proof.statuses.items()))}")
    print(f"a line was read at most {proof.slowest_s * 1000:.0f} ms after its answer's end,")
    print(f"and {proof.slowest_left_s * 1000:.0f} ms after its client had left")
    for problem in [*proof.problems, *(f"process {pid} had to be killed" for pid in left)]:
        print(f"PROBLEM: {problem}")
    if not proof.problems:
        print("the front was killed: its last answer and its running streams are in the log")
        shutil.rmtree(folder)
    return 1 if proof.problems else 0


if __name__ == "__main__":
    sys.exit(main())
