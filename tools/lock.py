"""Writes the lock files, or checks that they still resolve; plain PyPI, for any settings of pip.

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

from tools.pins import LOCKS, PYTHONS, ROOT, LockFile

HEADER = "# Written by `make lock`; do not edit. {use}\n"
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

    def lock(self, file: LockFile, before: str, *, upgrade: bool = False) -> str:
        """Resolve for all machines; returns the content of the lock file.

        Args:
            file: tells what is resolved: the project with its tools, or a requirement.
            before: the current lock file. Its versions are kept if they fit.
        """
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, file.path.name)
            out.write_text(before, encoding="utf-8")
            words = ["--universal", "--python-version", PYTHONS[0], "--no-annotate"]
            words += ["--output-file", str(out), *_wanted(file, Path(folder))]
            self.compile(*words, *(["--upgrade"] if upgrade else []))
            pins = out.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = (
            line
            for line in pins
            if file.left_out is None or not file.left_out.fullmatch(line.partition("==")[0])
        )
        return HEADER.format(use=file.use) + "".join(kept)

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
    return check() if options.check else write(upgrade=options.upgrade)


def write(files: Sequence[LockFile] = LOCKS, *, upgrade: bool) -> int:
    """Replace each lock file, once its pins have been found for every machine; returns 1 if one
    does not resolve."""
    resolver = Resolver(None)
    for file in files:
        before = file.path.read_text(encoding="utf-8") if file.path.exists() else ""
        try:
            after = resolver.lock(file, before, upgrade=upgrade)
            with tempfile.TemporaryDirectory() as folder:
                made = Path(folder, "requirements.txt")
                made.write_text(after, encoding="utf-8")
                resolver.check_wheels(made, itertools.product(file.platforms, PYTHONS))
        except Unresolved as error:
            return _unresolved(file, error)
        file.path.write_text(after, encoding="utf-8")
        print("".join(_changes(before, after)) or f"{file.path.name} is up to date")
    return 0


def check(files: Sequence[LockFile] = LOCKS, bound_s: float = BOUND_S) -> int:
    """Compare each lock file with the output of `make lock`; returns 1 if one differs.

    Wheels are looked for once on each platform and once for each Python, to be quick.
    Where no index answers in time, nothing is checked and a line says so.
    """
    resolver = Resolver(bound_s)
    status = 0
    try:
        if not resolver.finds_an_index():
            return _skipped("no index reachable")
        for file in files:
            try:
                status |= _check(resolver, file)
            except Unresolved as error:
                if not resolver.finds_an_index():
                    return _skipped("the index went away")
                status |= _unresolved(file, error)
    except subprocess.TimeoutExpired:
        return _skipped(f"no answer within {bound_s:.0f} s")
    if status == 0:
        print(f"lock file: {len(files)} checks passed: resolves on plain PyPI")
    return status


def _check(resolver: Resolver, file: LockFile) -> int:
    before = file.path.read_text(encoding="utf-8")
    after = resolver.lock(file, before)
    resolver.check_wheels(file.path, zip(itertools.cycle(file.platforms), PYTHONS, strict=False))
    if after == before:
        return 0
    print("".join(_changes(before, after)), file=sys.stderr)
    print(f"{file.path.name} is not what `make lock` writes; run it", file=sys.stderr)
    return 1


def _wanted(file: LockFile, folder: Path) -> list[str]:
    """Return uv's words for what a file is resolved from."""
    if file.requirement is None:
        return ["--extra", "dev", "pyproject.toml"]
    wanted = folder / "wanted.in"
    wanted.write_text(f"{file.requirement}\n", encoding="utf-8")
    if file.override is None:
        return [str(wanted)]
    override = folder / "override.txt"
    override.write_text(f"{file.override}\n", encoding="utf-8")
    return ["--override", str(override), str(wanted)]


def _unresolved(file: LockFile, error: Unresolved) -> int:
    print(f"{file.path.name} does not resolve: {error}", file=sys.stderr)
    return 1


def _skipped(why: str) -> int:
    print(f"lock file: 1 check skipped: {why}")
    return 0


def _changes(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "now", "resolved", n=0)
    return [f"{line.rstrip()}\n" for line in lines]


if __name__ == "__main__":
    sys.exit(main())
