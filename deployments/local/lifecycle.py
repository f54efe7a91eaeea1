"""Starting and stopping the supervisor process, and knowing which process it is."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import psutil

from cluster.config import AppConfig
from cluster.errors import BraidError, ConfigError
from deployments.local.local_state import StateDir, read_json, write_run
from deployments.local.phases import FAILED, RUNNING, STOPPED, STOPPING
from deployments.local.processes import end_processes

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 45.0
KILL_WAIT_S = 10.0
POLL_S = 0.25
SUPERVISOR_MODULE = "deployments.local.supervisor"


class StartFailed(BraidError):
    """The cluster did not come up; the message has the reason and the end of the log."""

    code = "start_failed"


@dataclass(frozen=True, slots=True)
class RunningCluster:
    """The content of ``status.json``, checked against the living process."""

    pid: int
    phase: str
    host: str
    port: int
    model: str
    started_at: float  # wall clock, seconds

    @property
    def url(self) -> str:
        """Return the address for clients."""
        return f"http://{self.host}:{self.port}"


def find_running(state: StateDir) -> RunningCluster | None:
    """Return the cluster of this state folder, or None if its supervisor is not alive."""
    status = read_json(state.status)
    if status is None or status.get("phase") in (STOPPED, FAILED):
        return None
    pid = status.get("pid")
    if not isinstance(pid, int) or supervisor_process(pid, state) is None:
        return None
    return RunningCluster(
        pid=pid,
        phase=str(status.get("phase")),
        host=str(status.get("host") or "127.0.0.1"),
        port=int(str(status.get("port") or 0)),
        model=str(status.get("model")),
        started_at=float(str(status.get("started_at") or 0)),
    )


def supervisor_process(pid: int, state: StateDir) -> psutil.Process | None:
    """Return the process of this id if it is this state folder's supervisor: ids are used again."""
    try:
        process = psutil.Process(pid)
        command = process.cmdline()
    except psutil.Error:
        return None
    is_ours = SUPERVISOR_MODULE in command and str(state.root) in command
    return process if is_ours and process.status() != psutil.STATUS_ZOMBIE else None


def start(
    state: StateDir,
    config: AppConfig,
    on_phase: Callable[[str], None],
    *,
    replicas: Callable[[], int],
) -> RunningCluster:
    """Start the supervisor in a process session of its own and wait until it takes requests.

    Args:
        on_phase: called with each new phase.
        replicas: returns how many must be ready; asked once the application runs.

    Raises:
        StartFailed: it ended, or was not ready in time; nothing is left behind.
    """
    with _only_one(state):
        if find_running(state) is not None:
            raise StartFailed(
                "a cluster of this state folder is running already; stop it first with `braid down`"
            )
        return _start(state, config, on_phase, replicas)


@contextmanager
def _only_one(state: StateDir) -> Iterator[None]:
    """Hold the state folder's lock; it ends with the process whatever happens to it."""
    with state.lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartFailed(
                "another `braid up` is starting this cluster; wait until it runs"
            ) from error
        yield


def _start(
    state: StateDir,
    config: AppConfig,
    on_phase: Callable[[str], None],
    replicas: Callable[[], int],
) -> RunningCluster:
    state.status.unlink(missing_ok=True)
    write_run(state, config)
    with state.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", SUPERVISOR_MODULE, str(state.root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=state.root,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    phase, wanted = "", 1
    try:
        while True:
            if process.poll() is not None:
                ended = f"the supervisor exited unexpectedly with status {process.returncode}"
                raise StartFailed(_reason(state, ended))
            running = find_running(state)
            if running is not None and running.phase != phase:
                phase = running.phase
                on_phase(phase)
                wanted = replicas() if phase == RUNNING else wanted
            if running is not None and phase == RUNNING and ready_replicas(running) >= wanted:
                return running
            if time.monotonic() > deadline:
                raise StartFailed(_reason(state, f"not ready within {START_TIMEOUT_S:g} s"))
            time.sleep(POLL_S)
    except BaseException:
        if process.poll() is None:
            on_phase(STOPPING)
            stop_process(psutil.Process(process.pid))
        raise


def stop(state: StateDir) -> list[int] | None:
    """End the cluster of this state folder.

    Returns:
        The processes that had to be killed, usually none; None if nothing ran.
    """
    running = find_running(state)
    if running is None:
        return None
    return stop_process(supervisor_process(running.pid, state))


def stop_process(process: psutil.Process | None) -> list[int]:
    """End a process by SIGTERM; after a wait, kill what is left of its family."""
    if process is None:
        return []
    family = [process, *process.children(recursive=True)]
    process.send_signal(signal.SIGTERM)
    psutil.wait_procs([process], timeout=STOP_TIMEOUT_S)
    return end_processes(family, KILL_WAIT_S)


def ready_replicas(running: RunningCluster) -> int:
    """Return the number of replicas that the front can reach; 0 while it does not answer."""
    return _ready_replicas(running) or 0


def takes_requests(running: RunningCluster) -> bool:
    """Return whether the front takes requests; it may need no replica for that."""
    return _ready_replicas(running) is not None


def _ready_replicas(running: RunningCluster) -> int | None:
    try:
        answer = httpx2.get(f"{running.url}/ready", timeout=2.0)
    except httpx2.HTTPError:
        return None
    return int(answer.json()["replicas"]) if answer.status_code == 200 else None


def check_port_free(host: str, port: int) -> None:
    """Refuse a port that another process listens on.

    Raises:
        ConfigError: it is taken; the message has the process where it can be known.
    """
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:  # macOS lists all processes' connections for root alone
        _check_port_by_listening(host, port)
        return
    for connection in connections:
        if connection.status != psutil.CONN_LISTEN or not connection.laddr:
            continue
        address, taken = connection.laddr.ip, connection.laddr.port
        if taken == port and address in (host, "0.0.0.0", "::"):
            raise ConfigError(
                f"port {port} on {host} is taken{_owner(connection.pid)}; "
                "choose another with --port"
            )


def _check_port_by_listening(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            raise ConfigError(
                f"port {port} on {host} cannot be used: {error.strerror}; choose another with "
                "--port"
            ) from error


def _owner(pid: int | None) -> str:
    if pid is None:
        return ""
    try:
        return f" by process {pid} ({psutil.Process(pid).name()})"
    except psutil.Error:
        return f" by process {pid}"


def _reason(state: StateDir, what: str) -> str:
    status = read_json(state.status) or {}
    said = status.get("error")
    log = state.log.read_text(errors="replace")[-3000:] if state.log.exists() else ""
    head = f"the cluster did not start: {said or what}"
    return f"{head}\n\nend of {state.log}:\n{log}" if log else head


def default_threads(replicas: int) -> int:
    """Return the CPU threads for each replica: the machine's cores shared out, at least one."""
    return max(1, (os.cpu_count() or 1) // replicas)
