"""The process that holds a local cluster's Ray and application.

The supervisor runs it as ``python -m deployments.local.node STATE_DIR DESCRIPTOR``, with the
cluster's secrets in its environment, and reads its phases from the pipe ``DESCRIPTOR``. It starts
Ray's control service again when that ends, and ends itself when the node is lost.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import structlog

from cluster.config import AppConfig
from deployments.local.local_state import SECRETS, StateDir, read_json
from deployments.local.phases import FAILED, RECOVERING, RUNNING, Phase, PhaseWriter
from deployments.local.ray_node import LocalRay, RayLost

log = structlog.get_logger(__name__)

WATCH_INTERVAL_S = 0.5
RETRY_S = 2.0
CONTROL_LOST = "Ray's control service (gcs_server) ended; it is started again"


class Node:
    """Starts the application on a Ray of its own and keeps the control service alive."""

    def __init__(self, state: StateDir, ray: LocalRay, phases: PhaseWriter) -> None:
        self._state = state
        self._ray = ray
        self._phases = phases
        self._stop = threading.Event()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            RayLost: the node ended under the application.
        """
        self._handle_signals()
        try:
            self._start()
            while not self._stop.wait(WATCH_INTERVAL_S):
                if not self._ray.control_alive:
                    self._restart_control()
        except RayLost:
            raise  # there is nothing left to end in order
        except BaseException:
            self._ray.stop()
            raise
        self._ray.stop()

    def _handle_signals(self) -> None:
        """Install the handlers, again after Ray has put its own in their place."""
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        signal.signal(signal.SIGINT, lambda *_: self._stop.set())

    def _start(self) -> None:
        values = read_json(self._state.run) or {}
        config = AppConfig.model_validate(values)
        self._phases.write_phase(Phase("starting ray"))
        self._ray.start(gpus=config.replica.num_gpus * config.replica.replicas)
        self._handle_signals()
        from ray import serve

        self._phases.write_phase(Phase("starting serve"))
        serve.start(
            proxy_location="Disabled",
            logging_config={"enable_access_log": False},
        )
        self._phases.write_phase(Phase("loading the model"))
        from deployments.app import APP_NAME, build_app

        serve.run(
            build_app(_arguments(config, values, self._state)),
            name=APP_NAME,
            route_prefix=None,
            external_scaler_enabled=True,  # the application's controller sets the replica count
        )
        self._handle_signals()
        self._phases.write_phase(Phase(RUNNING))

    def _restart_control(self) -> None:
        log.warning("node.control_lost")
        self._phases.write_phase(Phase(RECOVERING, CONTROL_LOST))
        while not self._stop.is_set():
            try:
                self._ray.restart_control()
            except Exception as error:  # Ray raises many kinds
                log.error("node.control_restart_failed", error=str(error))
                if not self._ray.control_alive:
                    self._stop.wait(RETRY_S)
                    continue
            log.info("node.control_restarted")
            self._phases.write_phase(Phase(RUNNING))
            return


def _arguments(config: AppConfig, values: dict[str, object], state: StateDir) -> dict[str, Any]:
    """Return the application's arguments: the configuration without secrets."""
    arguments: dict[str, Any] = {key: value for key, value in values.items() if key not in SECRETS}
    if config.adapters.store_dir is None:
        adapters = config.adapters.model_dump(mode="json", exclude_unset=True)
        arguments["adapters"] = {**adapters, "store_dir": str(state.adapter_store)}
    return arguments


def main() -> None:
    """Run the node of the state folder that the arguments name."""
    state = StateDir.open(Path(sys.argv[1]))
    phases = PhaseWriter(int(sys.argv[2]))
    try:
        Node(state, LocalRay(state), phases).run()
    except RayLost as error:
        phases.write_phase(Phase(FAILED, str(error)))
        log.error("node.lost", error=str(error))
        os._exit(1)  # Ray's threads would wait for what is gone
    except BaseException as error:
        phases.write_phase(Phase(FAILED, f"{type(error).__name__}: {error}"))
        raise


if __name__ == "__main__":
    main()
