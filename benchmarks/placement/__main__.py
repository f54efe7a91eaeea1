"""Measure picking, placing and scaling, and write the table "before, demanded, after".

Without names, every job that needs no live cluster runs. The page is written after each job, and
rows of other jobs stay as they are. Exit status 1: a demand is not met, or a job failed.
"""

import argparse
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.placement.page import (
    STEM,
    MeasuredRow,
    merge_rows,
    read_rows,
    this_machine,
    write_rows,
)
from benchmarks.placement.row import ResultRow


@dataclass(frozen=True, slots=True)
class RowJob:
    """One module that measures rows; its function ``rows`` returns them."""

    folder: str
    name: str
    rows: tuple[str, ...]
    what: str
    live: bool = False  # starts a cluster of its own
    seeded: bool = False  # ``rows`` takes the number of seeds

    @property
    def module(self) -> str:
        """Return the module's whole name."""
        return f"{__package__}.{self.folder}.{self.name}"


JOBS = (
    RowJob(
        "picking", "spill", ("N0",), "requests leave replicas that have free places", seeded=True
    ),
    RowJob(
        "controller",
        "counts",
        ("N1", "N2"),
        "the count at a constant load, and with a widening set",
        seeded=True,
    ),
    RowJob("picking", "pick", ("N5",), "time of a pick"),
    RowJob(
        "controller",
        "control",
        ("N8", "N14", "N15", "N16", "N17"),
        "deaths, clocks, controllers, state",
    ),
    RowJob(
        "picking", "quiet_tenant", ("N13",), "a quiet tenant next to 39 cold adapters", seeded=True
    ),
    RowJob(
        "simulation",
        "real_traces",
        ("traces",),
        "hours of published shapes, compared with counts by requests",
        seeded=True,
    ),
    RowJob("policies", "day_log", ("N23",), "policies on a day's log, by the command"),
    RowJob("policies", "mistakes", ("N24",), "broken policies"),
    RowJob(
        "simulation",
        "day",
        ("day",),
        "a day with a crowd, a death and an adversary, compared with every baseline",
        seeded=True,
    ),
    RowJob(
        "simulation",
        "drifting_sets",
        ("N21",),
        "500 adapters of all sizes, whose popularity drifts",
        seeded=True,
    ),
    RowJob("simulation", "simulator_speed", ("speed",), "the simulator's time"),
    RowJob("planning", "planner_speed", ("N4",), "time and memory of a plan"),
    RowJob(
        "planning",
        "kept_sets",
        ("N3", "N3a", "N6"),
        "placing against not placing",
        seeded=True,
    ),
    RowJob(
        "planning",
        "plan_cases",
        ("N7", "N10", "N11", "N12"),
        "a new replica, too many pins, copies, sizes",
        seeded=True,
    ),
    RowJob(
        "planning",
        "moving_pairs",
        ("N18s",),
        "hot pairs that move, placing against not placing",
        seeded=True,
    ),
    RowJob("live", "hand_on", ("N9",), "the controller's word to Serve's target", live=True),
    RowJob("live", "zero", ("N20",), "no replica, and back", live=True),
    RowJob(
        "live",
        "moving_set",
        ("N18",),
        "hot pairs that move, placement on and off in turns",
        live=True,
        seeded=True,
    ),
    RowJob(
        "live",
        "lasting_set",
        ("N19",),
        "rates that last, placement on and off in turns",
        live=True,
        seeded=True,
    ),
    RowJob("recording", "replay", ("N22",), "the simulator against a recorded live run", live=True),
    RowJob(
        "live",
        "live_faults",
        ("faults",),
        "requests while parts of a live cluster break",
        live=True,
    ),
)


def chosen_jobs(names: Sequence[str], live: bool) -> list[RowJob]:
    """Return the jobs of these rows or modules; without names all, live ones only if asked for.

    Raises:
        ValueError: a name is not known.
    """
    if not names:
        return [job for job in JOBS if live or not job.live]
    known = {name: job for job in JOBS for name in (job.name, *job.rows)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{unknown[0]}: not a row; expected some of {', '.join(known)}")
    chosen = {known[name].name for name in names}
    return [job for job in JOBS if job.name in chosen]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    listed = "\n".join(
        f"  {', '.join(job.rows):22} {job.name:14} {'(live) ' if job.live else ''}{job.what}"
        for job in JOBS
    )
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description=f"{__doc__}\n\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="names of rows or modules")
    parser.add_argument("--live", action="store_true", help="without names: live jobs as well")
    parser.add_argument("--seeds", type=int, help="of jobs that have some; default: their own")
    parser.add_argument(
        "--recording",
        type=Path,
        default=Path("recording"),
        help="for N22: a folder of `python -m benchmarks.placement.recording.record`",
    )
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args(arguments)
    try:
        jobs = chosen_jobs(options.rows, options.live)
    except ValueError as error:
        parser.error(str(error))
    met = True
    given: dict[str, dict[str, Any]] = {
        "replay": {"folder": options.recording},
        # of their own pages
        "live_faults": {"arguments": ("--out", str(options.out))},
        "day": {"out": options.out},
        "drifting_sets": {"out": options.out},
    }
    for job in jobs:
        print(f"{job.name}: {job.what}", flush=True)
        try:
            rows = measure(job, options.seeds, **given.get(job.name, {}))
        except Exception:  # one job's failure must not cost the others' rows
            traceback.print_exc()
            met = False
            continue
        met &= all(row.met is not False for row in rows)
        command = f"{parser.prog} {job.rows[0]}"
        new = [MeasuredRow(job.name, command, this_machine(), row) for row in rows]
        write_rows(options.out, merge_rows(read_rows(options.out / f"{STEM}.json"), new))
        print("\n".join(f"  {row.name}: {row.after} (demanded {row.demanded})" for row in rows))
    return 0 if met else 1


def measure(job: RowJob, seeds: int | None = None, **given: Any) -> Sequence[ResultRow]:
    """Run a job; ``seeds`` replaces its own number of them where it has one."""
    function: Callable[..., Sequence[ResultRow]] = importlib.import_module(job.module).rows
    own = {"seeds": seeds} if job.seeded and seeds is not None else {}
    return function(**own, **given)


if __name__ == "__main__":
    sys.exit(main())
