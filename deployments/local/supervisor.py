"""The process behind ``braid up``: owns the embedded Valkey, the local Ray and the application.

Run as ``python -m deployments.local.supervisor STATE_DIR``. It reads ``run.json``, reports its
phase in ``status.json``, restarts the embedded Valkey when it dies, and on SIGTERM takes
everything down in order.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import structlog

from cluster.config import AppConfig, Settings
from cluster.private_file import write_private
from deployments.local.log_file import turn_over
from deployments.local.ray_node import start_ray
from deployments.local.state import StateDir, read_json
from deployments.local.valkey import EmbeddedValkey
from deployments.serve_env import SERVE_ENVIRONMENT

log = structlog.get_logger(__name__)

WATCH_INTERVAL_S = 0.5
"""In the state folder: generations of adapters that were added while a cluster ran."""
SECRETS = ("redis_url", "signing_key")


class Supervisor:
    """Starts, watches and stops one local cluster."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._valkey: EmbeddedValkey | None = None
        self._stop = threading.Event()
        self._started = time.time()
        self._config: AppConfig | None = None

    def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        self._handle_signals()
        try:
            self._start()
            while not self._stop.wait(WATCH_INTERVAL_S):
                self._watch_valkey()
                turn_over(self._state.cluster_log)
        except BaseException as error:
            self._report("failed", error=f"{type(error).__name__}: {error}")
            raise
        else:
            self._report("stopping")
        finally:
            self._shut_down()
        self._report("stopped")

    def _handle_signals(self) -> None:
        """Also after Ray, which installs handlers of its own."""
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        signal.signal(signal.SIGINT, lambda *_: self._stop.set())

    def _start(self) -> None:
        values = read_json(self._state.run) or {}
        config = AppConfig.model_validate(values)
        self._config = config
        self._report("starting valkey")
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
        self._report("starting ray")
        start_ray()
        self._handle_signals()
        from ray import serve

        self._report("starting serve")
        serve.start(
            proxy_location="Disabled",
            logging_config={"enable_access_log": False},
        )
        self._report("loading the model")
        from deployments.app import APP_NAME, build_app

        args = {key: value for key, value in values.items() if key not in SECRETS}
        if config.adapters.store_dir is None:
            store_dir = str(self._state.adapter_store)
            adapters = config.adapters.model_dump(mode="json", exclude_unset=True)
            args["adapters"] = {**adapters, "store_dir": store_dir}
        serve.run(build_app(args), name=APP_NAME, route_prefix=None)
        self._handle_signals()
        self._report("running")

    def _watch_valkey(self) -> None:
        if self._valkey is None or self._valkey.running:
            return
        log.warning("supervisor.valkey_died")
        try:
            self._valkey.start()
        except Exception as error:  # reported, and tried again at the next look
            log.error("supervisor.valkey_restart_failed", error=str(error))
            return
        self._report("running")

    def _shut_down(self) -> None:
        import ray
        from ray import serve

        if ray.is_initialized():
            serve.shutdown()  # type: ignore[no-untyped-call] # Ray's
            ray.shutdown()
        if self._valkey is not None:
            self._valkey.stop()

    def _report(self, phase: str, error: str | None = None) -> None:
        front = self._config.front if self._config is not None else None
        write_private(
            self._state.status,
            json.dumps(
                {
                    "pid": os.getpid(),
                    "phase": phase,
                    "error": error,
                    "started_at": self._started,
                    "host": front.host if front else None,
                    "port": front.port if front else None,
                    "model": self._config.model if self._config else None,
                    "redis": "embedded" if self._valkey is not None else "external",
                    "valkey_pid": self._valkey.pid if self._valkey is not None else None,
                }
            ),
        )
        log.info("supervisor.phase", phase=phase, error=error)


def main() -> None:
    """Entry point."""
    Supervisor(StateDir.open(Path(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
