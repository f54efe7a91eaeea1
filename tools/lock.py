"""Writes requirements.lock, or checks that it still resolves; plain PyPI, for any settings of pip.

One file serves every Python and platform of `tools.pins`: uv resolves for all of them at once and
says by markers where a pin is needed. Only metadata is read, no wheel is fetched.
"""

import argparse
import difflib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.pins import LOCK, PLATFORMS, PYTHONS, ROOT

HEADER = (
    "# Written by `make lock`; do not edit. Use: pip install --constraint requirements.lock .\n"
)
BOUND_S = 55.0
"""Seconds that a check may take."""
KEPT_SETTINGS = frozenset({"UV_CACHE_DIR"})
AT_ONCE = 5
MACOS = "14.0"  # torch's oldest


class Unresolved(Exception):
    """The resolver's complaint."""


class Resolver:
    """uv, until a moment.

    Args:
        seconds: until it is interrupted; None is never.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("UV_") or name in KEPT_SETTINGS
        } | {"MACOSX_DEPLOYMENT_TARGET": MACOS, "UV_HTTP_RETRIES": "1"}

    def compile(self, *words: str) -> str:
        """Resolve; returns the pins that uv prints.

        Raises:
            Unresolved: there is no solution, or no index.
            TimeoutExpired: the moment has come.
        """
        uv = str(Path(sys.executable).with_name("uv"))
        python = ("--python", sys.executable)  # else it looks for one on this machine
        # Standard error holds the complaint; --no-config leaves out this machine's indexes.
        done = subprocess.run(
            [uv, "pip", "compile", "--no-config", "--quiet", "--no-header", *python, *words],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self._environment,
            timeout=None if self._end is None else max(0.1, self._end - time.monotonic()),
        )
        if done.returncode != 0:
            raise Unresolved(done.stderr.strip())
        return done.stdout

    def finds_an_index(self) -> bool:
        """Ask for one small package, past uv's cache."""
        with tempfile.TemporaryDirectory() as folder:
            wanted = Path(folder, "requirements.in")
            wanted.write_text("pip\n")
            try:
                self.compile("--no-cache", "--no-deps", str(wanted))
            except Unresolved:
                return False
        return True

    def lock(self, before: str, *, upgrade: bool = False) -> str:
        """Resolve the project with its tools for all machines; returns the content of the lock
        file.

        Args:
            before: the current lock file. Its versions are kept if they fit.
        """
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, LOCK.name)
            out.write_text(before, encoding="utf-8")
            words = ["--universal", "--python-version", PYTHONS[0], "--extra", "dev"]
            words += ["--no-annotate", "--output-file", str(out), "pyproject.toml"]
            self.compile(*words, *(["--upgrade"] if upgrade else []))
            return HEADER + out.read_text(encoding="utf-8")

    def check_wheels(self, lock: Path, machines: Iterable[tuple[str, str]]) -> None:
        """Resolve the pins from wheels alone.

        Args:
            machines: platform and Python of each.

        Raises:
            Unresolved: a pin has no wheel there; the message names Python and platform.
        """
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda machine: self._check_wheels(lock, *machine), machines))

    def _check_wheels(self, lock: Path, target: str, python: str) -> None:
        words = ["--python-platform", target, "--python-version", python]
        try:
            self.compile("--no-deps", "--only-binary", ":all:", *words, str(lock))
        except Unresolved as error:
            raise Unresolved(f"Python {python}, {target}: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.lock", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    options = parser.parse_args(arguments)
    try:
        return check() if options.check else write(upgrade=options.upgrade)
    except Unresolved as error:
        print(f"{LOCK.name} does not resolve: {error}", file=sys.stderr)
        return 1


def write(*, upgrade: bool) -> int:
    """Replace the lock file, once its pins have been found for every machine."""
    before = LOCK.read_text(encoding="utf-8") if LOCK.exists() else ""
    resolver = Resolver(None)
    after = resolver.lock(before, upgrade=upgrade)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "requirements.txt")
        made.write_text(after, encoding="utf-8")
        resolver.check_wheels(made, itertools.product(PLATFORMS, PYTHONS))
    LOCK.write_text(after, encoding="utf-8")
    print("".join(_changes(before, after)) or f"{LOCK.name} is up to date")
    return 0


def check(lock: Path = LOCK, bound_s: float = BOUND_S) -> int:
    """Compare the lock file with the output of `make lock`; returns 1 if it differs.

    Wheels are looked for once on each platform and once for each Python, to be quick.
    Where no index answers in time, nothing is checked and a line says so.
    """
    resolver = Resolver(bound_s)
    before = lock.read_text(encoding="utf-8")
    try:
        if not resolver.finds_an_index():
            return _skipped("no index reachable")
        try:
            after = resolver.lock(before)
            resolver.check_wheels(lock, zip(PLATFORMS, PYTHONS, strict=True))
        except Unresolved:
            if resolver.finds_an_index():
                raise
            return _skipped("the index went away")
    except subprocess.TimeoutExpired:
        return _skipped(f"no answer within {bound_s:.0f} s")
    if after != before:
        print("".join(_changes(before, after)), file=sys.stderr)
        print(f"{lock.name} is not what `make lock` writes; run it", file=sys.stderr)
        return 1
    print("lock file: 1 check passed: resolves on plain PyPI")
    return 0


def _skipped(why: str) -> int:
    print(f"lock file: 1 check skipped: {why}")
    return 0


def _changes(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "now", "resolved", n=0)
    return [f"{line.rstrip()}\n" for line in lines]


if __name__ == "__main__":
    sys.exit(main())
