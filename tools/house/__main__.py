"""Command line: `python -m tools.house` prints the figures of the tree, and of an older one."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.house.measures import House, measure
from tools.house.table import render
from tools.house.tree import checked_out
from tools.pins import ROOT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.house", description="Measure how the code is arranged."
    )
    parser.add_argument("--rev", metavar="REV", help="measure a commit; default: the working tree")
    parser.add_argument("--before", metavar="REV", help="compare with this commit")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write there instead of printing")
    options = parser.parse_args(arguments)
    try:
        now = measure_revision(options.rev)
        before = measure_revision(options.before) if options.before else None
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        text = json.dumps(
            {"now": _json(now)} | ({"before": _json(before)} if before is not None else {}),
            indent=2,
        )
    else:
        text = render(now, before, options.before or "")
    if options.out is not None:
        options.out.write_text(text.rstrip() + "\n", encoding="utf-8")
    else:
        print(text.rstrip())
    return 0


def measure_revision(revision: str | None, root: Path = ROOT) -> House:
    """Measure a commit, or the working tree if ``revision`` is None.

    Raises:
        ValueError: git does not know the revision.
    """
    with checked_out(root, revision) as folder:
        return measure(folder)


def _json(house: House) -> dict[str, object]:
    return dataclasses.asdict(house)


if __name__ == "__main__":
    sys.exit(main())
