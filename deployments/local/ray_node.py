"""A Ray of one node on the loopback interface, which survives the loss of its control service."""

import os
import secrets
import shutil
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from cluster.private_file import write_private
from deployments.local.local_state import StateDir
from deployments.ray_compat import (
    CONTROL_SERVICE,
    NODE_MANAGER,
    has_ended,
    init_loopback_node,
    restart_control_service,
)

OBJECT_STORE_BYTES = 100 * 2**20
MIN_CPUS = 2
PRIVATE = 0o700
RECONNECT_S = 120
"""Seconds that Ray's other processes wait for a control service that is down before they end."""
SOCKET_PATH_BYTES = 107
SESSION_PATH_BYTES = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")


class RayLost(Exception):
    """The node itself has ended; only a new one helps."""


class LocalRay:
    """Starts, watches and ends one node in this process.

    Ray keeps the tables of its control service (GCS: nodes, actors, Serve's checkpoints) in a
    folder, so that the service can be started again under the running actors.
    """

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._temporary: Path | None = None  # a short name for a folder whose path is long

    def set_environment(self, environment: MutableMapping[str, str]) -> None:
        """Write what Ray reads at its import; call before ``ray`` is imported.

        The token lets a caller execute code as this user, so no other user may read it.
        """
        write_private(self._state.ray_token, secrets.token_hex(32))
        environment.pop("RAY_AUTH_TOKEN", None)  # it would win over the file
        environment.update(
            {
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(self._state.ray_token),
                "RAY_enable_metrics_collection": "0",  # fronts have their own, with a key
                "RAY_gcs_storage": "rocksdb",
                "RAY_gcs_storage_path": str(self._state.ray_tables),
                "RAY_gcs_rpc_server_reconnect_timeout_s": str(RECONNECT_S),
            }
        )

    def start(self, *, gpus: float = 0) -> None:
        """Start the node; it ends with ``stop`` or with this process.

        Args:
            gpus: that its actors may be given, of those this process sees.
        """
        self._tidy()
        init_loopback_node(
            self._session_root(),
            num_cpus=max(MIN_CPUS, os.cpu_count() or MIN_CPUS),
            num_gpus=gpus,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )
        self._state.ray_sessions.chmod(PRIVATE)  # Ray opens it to everybody

    @property
    def control_alive(self) -> bool:
        """Report whether the control service runs.

        Raises:
            RayLost: the node manager has ended.
        """
        if has_ended(NODE_MANAGER):
            raise RayLost("Ray's node manager (raylet) ended")
        return not has_ended(CONTROL_SERVICE)

    def restart_control(self) -> None:
        """Start the control service again, at its old port, from its tables.

        Raises:
            Exception: Ray's own, of many kinds; the service is still away.
        """
        restart_control_service()

    def stop(self) -> None:
        """End the application and the node."""
        import ray
        from ray import serve

        try:
            if ray.is_initialized():
                if not has_ended(CONTROL_SERVICE) and not has_ended(NODE_MANAGER):
                    serve.shutdown()  # type: ignore[no-untyped-call] # Ray's
                ray.shutdown()
        finally:
            if self._temporary is not None:
                self._temporary.unlink(missing_ok=True)
                self._temporary.parent.rmdir()

    def _session_root(self) -> Path:
        """Return the folder for Ray's sessions, under a name short enough for a socket in it."""
        root = self._state.ray_sessions
        root.mkdir(exist_ok=True)
        if len(os.fsencode(root)) + SESSION_PATH_BYTES <= SOCKET_PATH_BYTES:
            return root
        self._temporary = Path(tempfile.mkdtemp(prefix="braid-")) / "ray"  # of mode 0700
        self._temporary.symlink_to(root, target_is_directory=True)
        return self._temporary

    def _tidy(self) -> None:
        """Remove the tables of an earlier node, and all logs but the last session's."""
        shutil.rmtree(self._state.ray_tables, ignore_errors=True)
        sessions = sorted(self._state.ray_sessions.glob("session_2*"))
        for old in sessions[:-1]:
            shutil.rmtree(old, ignore_errors=True)
