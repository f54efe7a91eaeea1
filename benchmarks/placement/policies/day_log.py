"""Times `braid policy simulate` on the log of a day: 100,000 requests, two policies.

The load follows a cosine (`diurnal`): 24 adapters by Zipf's popularity, four tenants. The log is
written by a simulation of it, so that it has what a front's has, under the policy that is then in
force. The command runs as an operator types it, and its whole time counts, pictures included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.placement.row import ResultRow
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.report.recipe import NamedSource, RunRecipe
from cluster.simulation.result import ServedRequest
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import A_MONDAY, SimulationSpec
from cluster.simulation.trace import ServedFacts, TraceRequest
from cluster.simulation.traces.trace_file import TraceHeader, encode_header, encode_request
from deployments.cli.simulation.wishes import chosen_shape

REQUESTS = 100_000
DAY_S = 86_400
DEMANDED_S = 60.0
ROUNDS = 3
MINE = """
replicas:
  min: 1
  max: 4
  target: 0.5
  schedule: [{days: mon-sun, from: "07:30", to: "19:00", min: 2}]
adapters: [{adapter: a0000, copies: 2}]
"""
POLICY = "mine.yaml"
COMMAND = "from deployments.cli import main; main()"


@dataclass(frozen=True, slots=True)
class TimedReport:
    """The outcome of the command."""

    seconds: float
    columns: int
    error: str  # of the simulator, as the report has it on top


def rows() -> list[ResultRow]:
    """Write a log and time the command on it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = write_log(folder, REQUESTS, DAY_S)
        runs = [time_command(folder, log) for _ in range(ROUNDS)]
    times = sorted(run.seconds for run in runs)
    middle = times[len(times) // 2]
    return [
        ResultRow(
            name="N23",
            what=f"`braid policy simulate` of a day's log, {REQUESTS:,} requests, engine fast: the "
            f"policy in force and another one ({runs[0].columns} columns), wall time with pictures",
            before="-",
            demanded=f"<= {DEMANDED_S:g} s",
            after=f"{middle:.1f} s",
            interval=f"{len(times)} rounds, {times[0]:.1f} to {times[-1]:.1f} s",
            met=middle <= DEMANDED_S,
        )
    ]


def write_log(folder: Path, requests: int, duration_s: float) -> Path:
    """Write a log of so many requests, as a front would, and a policy next to it."""
    trace = (
        f"diurnal,duration={duration_s},period={duration_s},mean={requests / duration_s},"
        "adapters=24,tenants=4"
    )
    base = SimulationSpec((), ClusterPolicy(), (), shape=chosen_shape(None, None))
    recipe = RunRecipe(replace(base, delays=base.delays.coarse), NamedSource(trace))
    path = folder / "yesterday.jsonl"
    with path.open("wb") as file:
        header = TraceHeader(start=A_MONDAY, about="written by a simulation")
        file.write(encode_header(header))
        file.writelines(encode_request(_recorded(one)) for one in simulate(recipe(1)).requests)
    (folder / POLICY).write_text(MINE)
    return path


def time_command(folder: Path, log: Path, *more: str) -> TimedReport:
    """Run the command on a log and the policy next to it.

    Raises:
        CalledProcessError: it failed.
    """
    out = folder / "report"
    files = [str(log), str(folder / POLICY)]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", COMMAND, "policy", "simulate", *files, "--out", str(out), *more],
        check=True,
        env=os.environ | {"BRAID_STATE_DIR": str(folder / "state")},
    )
    seconds = time.perf_counter() - began
    report = json.loads((out / "report.json").read_text())
    return TimedReport(seconds, len(report["columns"]), str(report["calibration"]))


def _recorded(served: ServedRequest) -> TraceRequest:
    asked = served.asked
    facts = ServedFacts(
        served.replica or "",
        served.tier_found,
        served.ttft,
        served.e2e or 0.0,
        served.outcome,
        served.queued,
    )
    return TraceRequest(
        asked.at,
        asked.tenant,
        asked.adapters,
        asked.prompt_tokens,
        asked.generated_tokens,
        asked.max_tokens,
        asked.prefix,
        asked.deadline_s,
        facts,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what the command takes, for a shorter log or with more options as well."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.placement.policies.day_log", description=__doc__
    )
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--seconds", type=float, default=DAY_S)
    parser.add_argument("--keep", type=Path, help="a folder for the log and the report")
    options, more = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        run = time_command(folder, write_log(folder, options.requests, options.seconds), *more)
    print(f"{run.seconds:.1f} s for {run.columns} columns; {run.error}")


if __name__ == "__main__":
    main()
