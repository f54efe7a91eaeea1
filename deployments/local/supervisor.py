"""The process behind ``braid up``: owns the embedded Valkey and the node with the application.

Run as ``python -m deployments.local.supervisor STATE_DIR``. It reads ``run.json``, reports its
phase in ``status.json``, starts the embedded Valkey or the node again when one ends, and on SIGTERM
takes everything down in order.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import psutil
import structlog

from cluster.config import AppConfig, Settings
from cluster.private_file import write_private
from deployments.local.local_state import StateDir, read_json
from deployments.local.log_file import turn_over
from deployments.local.phases import (
    FAILED,
    RECOVERING,
    RESTARTING,
    RUNNING,
    STOPPED,
    STOPPING,
    Phase,
    PhaseReader,
)
from deployments.local.processes import (
    adopt_orphans,
    die_with_parent,
    end_processes,
    reap_orphans,
)
from deployments.local.ray_node import LocalRay
from deployments.local.valkey import EmbeddedValkey
from deployments.serve_env import SERVE_ENVIRONMENT

log = structlog.get_logger(__name__)

NODE_MODULE = "deployments.local.node"
WATCH_INTERVAL_S = 0.5
NODE_STOP_S = 30.0
KILL_WAIT_S = 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Before a node that ended is started again: doubled for each one that never came up."""
INCIDENTS_KEPT = 8
PRIVATE_UMASK = 0o077


class Supervisor:
    """Starts, watches and stops one local cluster."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._valkey: EmbeddedValkey | None = None
        self._node: subprocess.Popen[bytes] | None = None
        self._phases: PhaseReader | None = None
        self._phase = Phase("starting")
        self._stop = threading.Event()
        self._started = time.time()
        self._config: AppConfig | None = None
        self._has_run = False
        self._pause_s = FIRST_PAUSE_S
        self._incidents: deque[dict[str, object]] = deque(maxlen=INCIDENTS_KEPT)

    def run(self) -> None:
        """Keep the cluster up until SIGTERM or SIGINT.

        Raises:
            RuntimeError: the cluster ended before it ever ran.
        """
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        signal.signal(signal.SIGINT, lambda *_: self._stop.set())
        adopt_orphans()
        try:
            self._start()
            while not self._stop.wait(WATCH_INTERVAL_S):
                self._watch_valkey()
                self._watch_node()
                reap_orphans(self._own_children())
                turn_over(self._state.cluster_log)
        except BaseException as error:
            self._report(Phase(FAILED, f"{error}" or type(error).__name__))
            raise
        else:
            self._report(Phase(STOPPING))
        finally:
            self._shut_down()
        self._report(Phase(STOPPED))

    def _start(self) -> None:
        config = AppConfig.model_validate(read_json(self._state.run) or {})
        self._config = config
        self._report(Phase("starting valkey"))
        redis_url = config.redis_url.get_secret_value() if config.redis_url else None
        if redis_url is None:
            self._valkey = EmbeddedValkey(self._state.valkey)
            self._valkey.start()
            redis_url = self._valkey.url
        write_private(self._state.redis_url, redis_url)
        os.environ.update(SERVE_ENVIRONMENT)
        # Front, replicas and clients share these cores: a thread that waits must not spin on one.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Ray runs workers at niceness 15, behind everything else on a machine; these serve.
        os.environ.setdefault("RAY_worker_niceness", "0")
        os.environ.setdefault("BRAID_LOG_FILE", str(self._state.cluster_log))
        # Secrets reach the actors through the environment that Ray's workers inherit, as they do
        # on Kubernetes; what Serve keeps about the application has none.
        os.environ["BRAID_REDIS_URL"] = redis_url
        signing_key = config.signing_key or Settings().signing_key
        os.environ["BRAID_SIGNING_KEY"] = (
            signing_key.get_secret_value() if signing_key else self._state.signing_key()
        )
        self._start_node()

    def _start_node(self) -> None:
        LocalRay(self._state).set_environment(os.environ)
        reading, writing = os.pipe()
        try:
            self._node = subprocess.Popen(
                [sys.executable, "-m", NODE_MODULE, str(self._state.root), str(writing)],
                stdin=subprocess.DEVNULL,
                pass_fds=(writing,),
                start_new_session=True,  # Ctrl-C is the supervisor's to handle
                preexec_fn=die_with_parent,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._phases = PhaseReader(reading)

    def _watch_valkey(self) -> None:
        if self._valkey is None or self._valkey.running:
            return
        log.warning("supervisor.valkey_died")
        self._note("the embedded Valkey exited unexpectedly; it is started again")
        try:
            self._valkey.start()
        except Exception as error:  # reported, and tried again at the next look
            log.error("supervisor.valkey_restart_failed", error=str(error))
            return
        self._report(self._phase)

    def _watch_node(self) -> None:
        assert self._node is not None
        ended = self._node.poll()  # before reading: its last words are in the pipe then
        for phase in self._phases.read_phases() if self._phases is not None else ():
            if phase.name == RUNNING:
                self._has_run = True
                self._pause_s = FIRST_PAUSE_S
            if phase.name == RECOVERING:
                self._note(str(phase.reason))
            self._report(phase)
        if ended is None:
            return
        reason = self._phase.reason if self._phase.name == FAILED else None
        reason = reason or f"the node exited unexpectedly with status {ended}"
        self._end_node()
        if not self._has_run:
            raise RuntimeError(reason)
        self._note(f"{reason}; the cluster is started again")
        self._report(Phase(RESTARTING, reason))
        if not self._stop.wait(self._pause_s):
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            self._start_node()

    def _end_node(self) -> None:
        """End the node, politely first, and whatever it leaves behind."""
        if self._node is None:
            return
        valkey = self._valkey.pid if self._valkey is not None else None
        family = [
            process
            for process in psutil.Process().children(recursive=True)
            if process.pid != valkey
        ]
        if self._node.poll() is None:
            self._node.terminate()
            try:
                self._node.wait(NODE_STOP_S)
            except subprocess.TimeoutExpired:
                self._node.kill()
                self._node.wait()
        end_processes(family, KILL_WAIT_S)
        if self._phases is not None:
            self._phases.close()
        self._node, self._phases = None, None

    def _shut_down(self) -> None:
        self._end_node()
        if self._valkey is not None:
            self._valkey.stop()

    def _own_children(self) -> set[int]:
        valkey = self._valkey.pid if self._valkey is not None else None
        node = self._node.pid if self._node is not None else None
        return {pid for pid in (valkey, node) if pid is not None}

    def _note(self, what: str) -> None:
        """Keep what went wrong, for ``braid status``."""
        self._incidents.append({"at": time.time(), "what": what})

    def _report(self, phase: Phase) -> None:
        self._phase = phase
        front = self._config.front if self._config is not None else None
        write_private(
            self._state.status,
            json.dumps(
                {
                    "pid": os.getpid(),
                    "phase": phase.name,
                    "error": phase.reason,
                    "started_at": self._started,
                    "incidents": list(self._incidents),
                    "host": front.host if front else None,
                    "port": front.port if front else None,
                    "model": self._config.model if self._config else None,
                    "redis": "embedded" if self._valkey is not None else "external",
                    "valkey_pid": self._valkey.pid if self._valkey is not None else None,
                }
            ),
        )
        log.info("supervisor.phase", phase=phase.name, error=phase.reason)


def main() -> None:
    """Run the supervisor of the state folder that the argument names."""
    os.umask(PRIVATE_UMASK)
    Supervisor(StateDir.open(Path(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
