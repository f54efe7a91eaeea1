"""Install the project into .venv, at the versions of requirements.lock.

The lock file is a list of constraints: what a wheel does not ask for is not installed, so a CPU
build of torch brings no CUDA libraries. Where no NVIDIA device is found, that build is tried first.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from cluster.nvidia import has_nvidia_device
from tools.pins import LOCK, MACHINES, PYTHONS, ROOT, read_pins

VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
LARGE_MB = 20.0
TAIL = 30
INDEX_PATIENCE = {"UV_HTTP_CONNECT_TIMEOUT": "5", "UV_HTTP_TIMEOUT": "15", "UV_HTTP_RETRIES": "0"}

_DOWNLOAD = re.compile(
    r"\s*(Downloading|Using cached) (?:\S*/)?(?P<file>\S+?\.(?:whl|tar\.gz|zip))"
    r" \((?P<size>[\d.]+) (?P<unit>bytes|kB|MB|GB)\)"
)
_MEGABYTES = {"bytes": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}


class InstallFailed(Exception):
    """One sentence that says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.install", description=__doc__)
    parser.add_argument("--dev", action="store_true", help="with what checks and tests need")
    parser.add_argument("--only-uv", action="store_true", help="only what writes the lock file")
    parser.add_argument(
        "--torch",
        choices=("auto", "cpu", "default"),
        default="auto",
        help="cpu: PyTorch's CPU build or an error; default: what pip's index has",
    )
    options = parser.parse_args(arguments)
    started = time.monotonic()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # a real stream
    try:
        check_machine(platform.system(), platform.machine())
        make_environment()
        if options.only_uv:
            pip("install", "uv")
            return 0
        megabytes = install_torch(options.torch)
        megabytes += install_project("[dev]" if options.dev else "")
    except (InstallFailed, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next call continues from here", file=sys.stderr)
        return 130
    print(f"installed: {megabytes:,.0f} MB of packages in {time.monotonic() - started:.0f} s")
    return 0


def check_machine(system: str, machine: str) -> None:
    """Refuse a machine that the lock file does not cover.

    Raises:
        InstallFailed: torch has no wheels for it.
    """
    if (system, machine) not in MACHINES:
        raise InstallFailed(
            f"{system} on {machine} is not supported: expected Linux on x86_64 or aarch64, or "
            "macOS on arm64; run it in a Linux container"
        )


def make_environment() -> None:
    """Make .venv; make it again if its Python or its pip does not serve."""
    code = "import sys, pip; print('%d.%d' % sys.version_info[:2])"
    if PYTHON.exists() and run([str(PYTHON), "-c", code]).stdout.strip() in PYTHONS:
        return
    print(f"making {VENV.name} with Python {platform.python_version()}")
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", VENV], stdout=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        raise InstallFailed(f"no virtual environment could be made: {done.stdout.strip()}")


def install_torch(choice: str) -> float:
    """Install torch alone, in the smallest build that serves this machine; megabytes fetched.

    Raises:
        InstallFailed: the build that was asked for cannot be had.
    """
    wanted = read_pins(LOCK.read_text(encoding="utf-8"))["torch"]
    if installed_version("torch").partition("+")[0] == wanted:
        return 0.0
    requirement = f"torch=={wanted}"
    at_hand = run(pip_command("install", "--no-index", "--no-deps", requirement))
    if at_hand.returncode == 0:
        print(f"torch {installed_version('torch')}: the wheel that pip's settings name")
        return 0.0
    without_gpu = platform.system() == "Linux" and not has_nvidia_device()
    if choice == "cpu" or (choice == "auto" and without_gpu):
        print("asking PyTorch's index for the CPU build of torch, about 200 MB")
        fetched = pip("install", "uv")
        if install_cpu_torch(requirement):
            print(f"torch {installed_version('torch')}: the CPU build")
            return fetched + 200.0
        if choice == "cpu":
            raise InstallFailed(
                "PyTorch's index gave no CPU build of torch; check the network, or take pip's "
                "default with `make up TORCH=default`"
            )
    size = "with CUDA's libraries, about 3 GB" if platform.system() == "Linux" else "about 100 MB"
    print(f"torch {wanted} from pip's index, {size}; this takes minutes")
    return pip("install", requirement)


def install_cpu_torch(requirement: str) -> bool:
    """Install PyTorch's CPU build, whose index uv knows; returns False if it cannot be had soon."""
    words = ["pip", "install", "--quiet", "--no-deps", "--link-mode", "copy"]
    words += ["--python", str(PYTHON), "--torch-backend", "cpu", requirement]
    return run([str(UV), *words], INDEX_PATIENCE).returncode == 0


def install_project(extras: str) -> float:
    """Install everything else, and the project as a link to this folder; megabytes fetched."""
    print(f"the project and what it needs, at the versions of {LOCK.name}")
    fetched = pip("install", "setuptools")
    return fetched + pip("install", "--no-build-isolation", "--editable", f".{extras}")


def pip_command(*words: str) -> list[str]:
    """Return one of pip's commands, under the lock file's constraints."""
    command, *rest = words
    quiet = ("--disable-pip-version-check", "--progress-bar", "off")
    constraints = ("--constraint", str(LOCK)) if LOCK.exists() else ()
    return [str(PYTHON), "-m", "pip", command, *quiet, *constraints, *rest]


def pip(*words: str) -> float:
    """Run pip and name large downloads as they begin; megabytes fetched.

    Raises:
        InstallFailed: pip failed; its last lines have been printed.
    """
    megabytes = 0.0
    last: list[str] = []
    with subprocess.Popen(
        pip_command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = [*last, line][-TAIL:]
            found = download(line)
            if found is not None:
                name, size = found
                megabytes += size
                if size >= LARGE_MB:
                    print(f"  {name}, {size:,.0f} MB")
    if process.returncode != 0:
        print("".join(last), end="", file=sys.stderr)
        raise InstallFailed(f"pip {' '.join(words)} failed; see its last lines above")
    return megabytes


def download(line: str) -> tuple[str, float] | None:
    """Return name and megabytes of a package whose download pip announces, else None."""
    found = _DOWNLOAD.match(line)
    if found is None or ".metadata" in line:
        return None
    name = "-".join(found["file"].removesuffix(".tar.gz").split("-")[:2])
    return name, float(found["size"]) * _MEGABYTES[found["unit"]]


def installed_version(name: str) -> str:
    """Return the version of a distribution in .venv, or "" if it is not installed."""
    code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    return run([str(PYTHON), "-c", code, name]).stdout.strip()


def run(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end, in silence."""
    surroundings = {**os.environ, **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=surroundings)


if __name__ == "__main__":
    sys.exit(main())
