"""Equal specifications give equal results in every process, whatever its hashes are."""

import hashlib
import os
import subprocess
import sys

import pytest

from cluster.simulation.simulate import simulate
from tests.support.small_traces import TraceMaker, spec_of


def digest_of_pairs(engine: str) -> str:
    """Simulate pairs and single adapters that do not all fit; returns a digest of the result."""
    streams = [(f"t{n % 3}", (f"a{n}", f"a{n + 1}"), 0.2) for n in range(0, 40, 2)]
    streams += [("t0", (f"a{n}",), 0.1) for n in range(40)]
    trace = TraceMaker(4).serve(streams, 40, shared_blocks=2).requests
    result = simulate(spec_of(trace, 40, engine=engine, replicas=3))
    seen = repr((result.requests, result.moves, result.placements, result.samples))
    return hashlib.sha256(seen.encode()).hexdigest()


@pytest.mark.parametrize("engine", ["exact", "fast"])
def test_another_process_gives_the_same_result(engine: str) -> None:
    code = f"from {__name__} import digest_of_pairs; print(digest_of_pairs({engine!r}))"
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert found == [digest_of_pairs(engine)] * 2
