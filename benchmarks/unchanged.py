"""Compare the engine and the front of another checkout with this one's, in turns.

Each round runs the engine's quick benchmark and the relay's in both checkouts, with this Python,
and the next round begins with the other one: a machine that slows down slows both down. A figure is
compared within each round. Writes ``engine-unchanged.json`` and renews its rows of
``placement.md``, after every round. Exit status 1: something surely became slower.

The file holds ``before`` and ``after`` (commits; a + after one: with uncommitted changes),
``machine``, ``command``, and ``figures``. Each of those has ``name``, ``what``, ``unit``,
``more_is_better``, and ``before`` and ``after``: one value a round, in order.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.placement.page import (
    STEM,
    MeasuredRow,
    merge_rows,
    read_rows,
    this_machine,
    write_rows,
)
from benchmarks.placement.row import ResultRow
from cluster.simulation.report.statistics import Interval, interval

HERE = Path(__file__).parents[1]
JOB = "unchanged"
CASE, BATCH = "adapters-16", 16
STREAMS = (16, 64)
ENGINE = ("benchmarks.engine", "--quick", "--only", CASE, "--batch", str(BATCH))
RELAY = ("benchmarks.relay", "--streams", *map(str, STREAMS))
FAR = 10.0
"""Percent slower that the rounds must be able to exclude; otherwise they tell nothing."""


class Reading(NamedTuple):
    """One figure of one run."""

    what: str
    unit: str
    more_is_better: bool
    value: float


@dataclass(frozen=True, slots=True)
class PairedFigure:
    """One figure of both checkouts, a value a round."""

    name: str
    what: str
    unit: str
    more_is_better: bool
    before: tuple[float, ...]
    after: tuple[float, ...]

    @property
    def slower(self) -> Interval:
        """Return by how many percent this checkout is slower, compared within each round."""
        pairs = zip(self.before, self.after, strict=True)
        costs = [(b, a) if not self.more_is_better else (1 / b, 1 / a) for b, a in pairs]
        return interval([100 * (after / before - 1) for before, after in costs])

    @property
    def unchanged(self) -> bool | None:
        """Report whether it is not surely slower; None: the rounds differ too much to tell."""
        slower = self.slower
        if slower.low is None or slower.high is None:
            return None
        if slower.low > 0:
            return False
        return True if slower.high <= FAR else None

    def row(self, before: str, after: str) -> ResultRow:
        """Return the figure as a row of the page, with both commits."""
        slower = self.slower
        ends = "" if slower.half is None else f", 95 %: {slower.low:+.1f} to {slower.high:+.1f} %"
        return ResultRow(
            name=f"{JOB} {self.name}",
            what=f"{self.what}; commit {before} and then {after}, in turns",
            before=self._words(self.before),
            demanded=f"not surely slower, and surely not by more than {FAR:g} %",
            after=self._words(self.after),
            interval=f"{len(self.after)} rounds, slower by {slower.mean:+.1f} %{ends}",
            met=self.unchanged,
        )

    def _words(self, values: Sequence[float]) -> str:
        middle, low, high = statistics.median(values), min(values), max(values)
        return f"{middle:.1f} {self.unit} ({low:.1f} to {high:.1f})"


def engine_figures(report: dict[str, Any]) -> dict[str, Reading]:
    """Return the figures of an ``engine-bench.json`` by name."""
    found = []
    for part, what, unit in (
        ("decode", "decode step", "ms"),
        ("prefill", "prefill step", "ms"),
        ("generation", "generation", "tokens/s"),
    ):
        rows = [row for row in report[part] if row["case"] == CASE and row["batch"] <= BATCH]
        row = max(rows, key=lambda row: row["batch"])  # of prefill steps there is none so large
        of = f"{row['batch']} requests with {CASE.rpartition('-')[2]} adapters"
        more = part == "generation"
        value = row["rate"]["median"] if more else row["step_ms"]
        found.append((part, Reading(f"{what}, {of}", unit, more, value)))
    return dict(found)


def relay_figures(report: dict[str, Any]) -> dict[str, Reading]:
    """Return the figures of a ``relay.json`` by name."""
    return {
        f"{case['name']} {case['streams']}": Reading(
            f"CPU of the front for a token, {case['streams']} streams, {case['name']}",
            "µs",
            False,
            case["cpu_us_per_token"],
        )
        for case in report["cases"]
    }


def measure(checkout: Path) -> dict[str, Reading]:
    """Run both benchmarks of a checkout; returns their figures by name.

    Raises:
        RuntimeError: a benchmark failed; the message holds what it said.
    """
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        for module in (ENGINE, RELAY):
            done = subprocess.run(
                [sys.executable, "-m", *module, "--out", str(out)],
                cwd=checkout,
                env=os.environ | {"PYTHONPATH": str(checkout)},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"{checkout}: {module[0]} failed:\n{done.stdout}{done.stderr}")
        engine = json.loads((out / "engine-bench.json").read_text(encoding="utf-8"))
        relay = json.loads((out / "relay.json").read_text(encoding="utf-8"))
    return engine_figures(engine) | relay_figures(relay)


def paired(
    before: Sequence[dict[str, Reading]], after: Sequence[dict[str, Reading]]
) -> list[PairedFigure]:
    """Put the rounds of both checkouts together, figure by figure."""
    return [
        PairedFigure(
            name,
            first.what,
            first.unit,
            first.more_is_better,
            tuple(each[name].value for each in before),
            tuple(each[name].value for each in after),
        )
        for name, first in after[0].items()
    ]


def commit_of(checkout: Path) -> str:
    """Return a checkout's commit, with a + if files differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(checkout), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")


def write(folder: Path, figures: Sequence[PairedFigure], before: str, after: str) -> None:
    """Write the file, and the rows into the page of placement."""
    rounds = len(figures[0].after)
    command = f"python -m benchmarks.{JOB} --before DIR --rounds {rounds}"
    found = {
        "before": before,
        "after": after,
        "machine": this_machine(),
        "command": command,
        "figures": [asdict(figure) for figure in figures],
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (folder / "engine-unchanged.json").write_text(text, encoding="utf-8")
    rows = [
        MeasuredRow(JOB, command, this_machine(), figure.row(before, after)) for figure in figures
    ]
    write_rows(folder, merge_rows(read_rows(folder / f"{STEM}.json"), rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{JOB}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--before", type=Path, required=True, metavar="DIR", help="other checkout")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds: {options.rounds}; expected 1 or more, and 3 or more to tell much")
    checkouts = (options.before.resolve(), HERE)
    # before the first round, whose pages are a change to this checkout
    before, after = (commit_of(checkout) for checkout in checkouts)
    rounds: dict[Path, list[dict[str, Reading]]] = {checkout: [] for checkout in checkouts}
    figures: list[PairedFigure] = []
    for number in range(options.rounds):
        for checkout in checkouts if number % 2 == 0 else checkouts[::-1]:
            rounds[checkout].append(measure(checkout))
        figures = paired(rounds[checkouts[0]], rounds[checkouts[1]])
        write(options.out, figures, before, after)
        print(f"round {number + 1} of {options.rounds}", flush=True)
        for figure in figures:
            row = figure.row(before, after)
            print(f"  {figure.name}: {row.before}, then {row.after}; {row.interval}", flush=True)
    return 1 if any(figure.unchanged is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
