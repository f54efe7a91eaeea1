"""Memory, descriptors and threads of a cluster's processes over time, and whether they grow."""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import psutil

OWN_ROLES = ("Replica", "Front", "Controller")
"""Our actors: one that is replaced by another process has crashed."""
RAY_AND_OURS = (
    "supervisor",
    "ServeController",
    "IDLE",
    "runtime_env",
    "log_monitor",
    "monitor.py",
    "dashboard",
    "gcs_server",
    "raylet",
    "client.server",
    "agent",
)
ACTOR = re.compile(r"(?:braid#|ServeReplica:braid:)(\w+)")
RAY_ACTOR = re.compile(r"^ray::(\w+)")


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """One process at one moment."""

    at: float  # seconds since the start
    rss: int  # bytes
    fds: int  # without connections to the store
    threads: int
    store: int = 0  # connections to the store


@dataclass(frozen=True, slots=True)
class Drift:
    """One process's figures at the beginning and at the end; medians over a window each."""

    name: str
    rss: tuple[float, float]  # bytes
    fds: tuple[float, float]
    threads: tuple[float, float]
    store: tuple[int, int] = (0, 0)  # connections to the store, the most in each window

    @property
    def rss_growth(self) -> float:
        """Relative growth; negative if memory shrank."""
        return self.rss[1] / self.rss[0] - 1


@dataclass
class ProcessBook:
    """Samples by process, named by role and process id."""

    samples: dict[str, list[ProcessSample]] = field(default_factory=dict)

    def look(self, root: int, at: float, store_port: int) -> None:
        """Take a sample of the process ``root`` and its whole family.

        Args:
            root: a process id.
            at: seconds since the start.
            store_port: where the store listens; connections from and to it are counted apart.
        """
        parent = psutil.Process(root)
        for process in (parent, *parent.children(recursive=True)):
            try:
                with process.oneshot():
                    name = f"{role_of(process.cmdline(), process.name())}-{process.pid}"
                    store = _connections(process, store_port)
                    sample = ProcessSample(
                        at,
                        process.memory_info().rss,
                        process.num_fds() - store,
                        process.num_threads(),
                        store,
                    )
            except (psutil.Error, OSError, RuntimeError):
                continue  # it is ending, or what was read of it changed meanwhile; see `replaced`
            self.samples.setdefault(name, []).append(sample)

    def drifts(self, warm_up: float, end: float) -> list[Drift]:
        """Compare the first window after ``warm_up`` with the last one before ``end``, in seconds.

        Processes that do not live through both windows have no drift.
        """
        width = window(warm_up, end)
        found = []
        for name, samples in sorted(self.samples.items()):
            first = [item for item in samples if warm_up <= item.at < warm_up + width]
            last = [item for item in samples if end - width < item.at <= end]
            if first and last:
                found.append(
                    Drift(
                        name,
                        rss=_medians(first, last, "rss"),
                        fds=_medians(first, last, "fds"),
                        threads=_medians(first, last, "threads"),
                        store=(
                            max(item.store for item in first),
                            max(item.store for item in last),
                        ),
                    )
                )
        return found

    def replaced(self, end: float, patience: float) -> list[str]:
        """List our own actors that did not live from the first sample to the last."""
        found = []
        began = min((samples[0].at for samples in self.samples.values()), default=0.0)
        for name, samples in sorted(self.samples.items()):
            if role_of_name(name) not in OWN_ROLES:
                continue
            if samples[0].at > began + patience:
                found.append(f"{name} was started {samples[0].at:.0f} s after the beginning")
            if samples[-1].at < end - patience:
                found.append(f"{name} was last seen at {samples[-1].at:.0f} of {end:.0f} s")
        return found


def window(warm_up: float, end: float) -> float:
    """Choose the width of the two windows to compare: 300 seconds, or less in a short run."""
    return min(300.0, (end - warm_up) / 3)


def role_of(command: Sequence[str], name: str) -> str:
    """Name the role of a process: an actor's class, a Ray server's name, or the program's."""
    line = " ".join(command)
    actor = ACTOR.search(line) or RAY_ACTOR.search(line)
    if actor:
        return actor.group(1)
    for title in RAY_AND_OURS:
        if title in line:
            return title
    return name.split(":")[0].strip() or "unnamed"


def role_of_name(name: str) -> str:
    """Read the role from a process's name in the book."""
    return name.rsplit("-", 1)[0]


def processor_seconds(root: int) -> float:
    """Sum user and system time of a process and its family so far."""
    parent = psutil.Process(root)
    return sum(_processor_seconds((parent, *parent.children(recursive=True))))


def _medians(
    first: Sequence[ProcessSample], last: Sequence[ProcessSample], figure: str
) -> tuple[float, float]:
    return (
        statistics.median(getattr(item, figure) for item in first),
        statistics.median(getattr(item, figure) for item in last),
    )


def _connections(process: psutil.Process, port: int) -> int:
    """Open TCP connections of a process that have ``port`` at either end."""
    return sum(
        1
        for item in process.net_connections(kind="tcp")
        if item.raddr and port in (item.laddr.port, item.raddr.port)
    )


def _processor_seconds(family: Iterable[psutil.Process]) -> Iterable[float]:
    for process in family:
        try:
            times = process.cpu_times()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        yield times.user + times.system
