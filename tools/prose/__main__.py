"""Command line: `python -m tools.prose` checks the tree, or the files that are named."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.pins import ROOT
from tools.prose.ratchet import (
    count,
    may_replace,
    read_baseline,
    render_table,
    risen,
    totals,
    write_baseline,
)
from tools.prose.rules import Fault, check_prose
from tools.prose.texts import read_tree

BASELINE = "tools/prose/baseline.json"
SHOWN = 50


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the command; returns the exit status, 1 if there are more faults than allowed."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.prose",
        description="Check the prose of docstrings, comments, messages and documents.",
    )
    parser.add_argument("files", nargs="*", help="list every fault of these; default: the tree")
    parser.add_argument("--list", metavar="FOLDER", help="list every fault below a folder")
    parser.add_argument("--count", action="store_true", help="print counts by folder and rule")
    parser.add_argument(
        "--tighten", action="store_true", help="write today's counts as what is allowed"
    )
    options = parser.parse_args(arguments)
    baseline = root / BASELINE
    allowed = read_baseline(baseline)
    named = [str(Path(name)) for name in options.files]
    faults = [fault for prose in read_tree(root, named) for fault in check_prose(prose)]
    if named or options.list:
        below = [fault for fault in faults if named or _is_below(fault.path, options.list)]
        _show(below, len(below))
        return 1 if below else 0
    counts = count(faults)
    if options.count:
        print(render_table(counts, allowed))
        return 0
    if options.tighten:
        if allowed and not may_replace(counts, allowed):
            print(
                f"the total of a rule has risen from {totals(allowed)} to {totals(counts)}; mend "
                "the new faults first, as `python -m tools.prose` lists them",
                file=sys.stderr,
            )
            return 1
        write_baseline(baseline, counts)
        return 0
    more = risen(counts, allowed)
    for folder, rule in more:
        there = [fault for fault in faults if fault.rule == rule and _top(fault) == folder]
        _show(there, SHOWN)
        allowance = allowed.get(folder, {}).get(rule, 0)
        print(f"{folder}: {len(there)} faults of rule {rule}, {allowance} allowed", file=sys.stderr)
    if more:
        return 1
    print(f"prose: {sum(totals(counts).values())} faults, no more than allowed")
    if counts != allowed:
        print("fewer than before: `python -m tools.prose --tighten` writes the smaller counts")
    return 0


def _show(faults: Sequence[Fault], most: int) -> None:
    for fault in faults[:most]:
        print(fault)
    if len(faults) > most:
        print(f"... and {len(faults) - most} more; list all with --list FOLDER")


def _top(fault: Fault) -> str:
    folder, slash, _ = fault.path.partition("/")
    return folder if slash else "."


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/") or folder == "."


if __name__ == "__main__":
    sys.exit(main())
