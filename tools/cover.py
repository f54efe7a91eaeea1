"""Prints the share of lines that the last run of `make cover` reached, by folder."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.pins import ROOT

FOLDERS = ("", "kernels", "cluster", "router_service", "deployments", "deployments/front")
"""Folders that are shown if they hold a measured file; "" is everything."""


@dataclass(frozen=True)
class Share:
    """Lines of a folder, and those that were reached."""

    lines: int
    reached: int

    def __str__(self) -> str:
        return f"{self.reached / self.lines:6.1%} of {self.lines:,} lines"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.cover", description=__doc__)
    parser.add_argument("folders", nargs="*", help="more folders to show")
    options = parser.parse_args(arguments)
    command = [sys.executable, "-m", "coverage", "json", "--quiet", "-o", "-"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()
        print(f"no figures, run `make cover` first; coverage says: {said}", file=sys.stderr)
        return 1
    for folder, share in sum_folders(json.loads(done.stdout), [*FOLDERS, *options.folders]).items():
        print(f"{folder or 'all':20} {share}")
    return 0


def sum_folders(report: Mapping[str, Any], folders: Iterable[str]) -> dict[str, Share]:
    """Sum the lines of a report of coverage's by folder; folders without lines are left out."""
    found = {}
    for folder in folders:
        start = folder.rstrip("/") + "/" if folder else ""
        files = [one["summary"] for path, one in report["files"].items() if path.startswith(start)]
        lines = sum(one["num_statements"] for one in files)
        if lines:
            found[folder] = Share(lines, sum(one["covered_lines"] for one in files))
    return found


if __name__ == "__main__":
    sys.exit(main())
