"""Measures how soon Serve has a replica count that the operator's policy asks for (row N9)."""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.adapters.base_models import QUICKSTART
from benchmarks.placement.live.policy_edits import EditedCluster
from benchmarks.placement.row import ResultRow
from benchmarks.shared.quiet import quiet

DEMANDED_S = 1.5
BEFORE = "15 s up by one replica, 25 s up by three (the count travelled as a metric)"


@dataclass(frozen=True)
class CountChange:
    """One change of the count, in seconds after the policy file was replaced."""

    up: bool
    target_s: float  # until Serve's target is the new one
    call_s: float  # the part of it that the call to Serve took
    done_s: float  # until as many replicas run


def rows(arguments: Sequence[str] | None = ()) -> list[ResultRow]:
    """Run it and return its rows of the table, one for each direction."""
    changes = measure(options_of(arguments))
    made = []
    for up, word in ((True, "up"), (False, "down")):
        part = [change for change in changes if change.up is up]
        target = [change.target_s for change in part]
        call = [change.call_s for change in part]
        done = [change.done_s for change in part]
        made.append(
            ResultRow(
                name=f"N9 {word}",
                what=f"live: from an edit of the policy to Serve's target, {word} by one replica",
                before=BEFORE,
                demanded=f"at most {DEMANDED_S:g} s",
                after=(
                    f"median {median(target):.2f} s, longest {max(target):.2f} s; the call alone "
                    f"{median(call) * 1e3:.0f} ms; {median(done):.1f} s until it is so"
                ),
                interval=f"{len(part)} changes, {min(target):.2f} to {max(target):.2f} s",
                met=max(target) <= DEMANDED_S,
            )
        )
    return made


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; without one, the defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.placement.live.hand_on", description=__doc__
    )
    parser.add_argument("--base", default=QUICKSTART, help='"tiny", "135m", a hub id or a folder')
    parser.add_argument("--rounds", type=int, default=10, help="changes in each direction")
    parser.add_argument("--state", type=Path, help="working folder; default: a temporary one")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> list[CountChange]:
    """Start a cluster, change the count up and down in turn, and stop it."""
    folder = options.state or Path(tempfile.mkdtemp(prefix="braid-hand-on-"))
    with quiet():
        rig = EditedCluster.start(folder, options.base, _policy(1))
        try:
            rig.wait("the first count", lambda: rig.serve().get("target") == 1)
            return [_change(rig, count) for _ in range(options.rounds) for count in (2, 1)]
        finally:
            rig.cluster.stop()


def _policy(count: int) -> dict[str, Any]:
    return {"replicas": {"min": count, "max": count, "down": {"drain": 0}}}


def _change(rig: EditedCluster, count: int) -> CountChange:
    edited = rig.edit(_policy(count))
    target = rig.wait(f"target {count}", lambda: rig.serve().get("target") == count)
    call_s = rig.serve()["set_took_s"]
    done = rig.wait(f"{count} run", lambda: rig.cluster.ready_replicas() == count)
    rig.wait("Serve agrees", lambda: rig.serve().get("running") == count)
    return CountChange(count == 2, target - edited, call_s, done - edited)


if __name__ == "__main__":
    for row in rows(None):
        print(row)
