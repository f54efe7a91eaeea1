"""Ask a local cluster 1,000 requests of all outcomes, then kill its front. Exit status 1: a line is
missing, late, wrong, or has what it must not have."""

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import httpx2

from benchmarks.request_log.asking import Asker
from benchmarks.request_log.local_cluster import (
    ADAPTER,
    LONG_TOKENS,
    front_of,
    keys_of,
    proof_config,
)
from benchmarks.request_log.log_tail import LogTail
from benchmarks.request_log.proof import Proof, ask_all, kill_front
from deployments.local import lifecycle
from deployments.local.local_state import StateDir
from deployments.local.log_file import log_files
from deployments.local.valkey import free_port


async def prove(state: StateDir, running: lifecycle.RunningCluster, count: int) -> Proof:
    """The whole proof, against a running cluster."""
    keys = keys_of(state)
    tail = LogTail(state.cluster_log)
    try:
        async with httpx2.AsyncClient(base_url=running.url, timeout=60) as client:
            asker = Asker(client, keys, ADAPTER, long_tokens=LONG_TOKENS)
            proof = await ask_all(asker, tail, count)
            front = front_of(running.pid, running.port)
            proof.problems += await kill_front(asker, tail, front.kill)
    finally:
        tail.close()
    proof.search(log_files(state.cluster_log), list(keys.values()))
    return proof


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.request_log", description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=2)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="braid-request-log-"))
    state = StateDir.open(folder)
    config = proof_config(state, free_port(), options.replicas)
    running = lifecycle.start(
        state, config, lambda phase: print(f"  {phase}", flush=True), replicas=options.replicas
    )
    try:
        proof = asyncio.run(prove(state, running, options.requests))
    finally:
        left = lifecycle.stop(state) or []
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
