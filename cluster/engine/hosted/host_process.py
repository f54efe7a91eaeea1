"""Owns the process of an engine host, and the socket to it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from cluster.engine.hosted.messages import Frames, FromHost, ToHost, decode_from_host, frame

HOST_PROGRAM = Path(__file__).parent / "host"
_LOOK_S = 0.01


class HostProcess:
    """A host that was started. It ends with the thread that started it, and with this socket.

    Args:
        python: of the environment that it runs in.
        environment: its variables.
    """

    def __init__(self, python: Path, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [python, HOST_PROGRAM, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._socket = ours
        self._frames = Frames()
        self._sending = threading.Lock()

    @property
    def pid(self) -> int:
        """The id of the process, and of its group, which has the processes that it starts."""
        return self._process.pid

    def fileno(self) -> int:
        """Return the socket's, so that it can be selected on."""
        return self._socket.fileno()

    def send(self, message: ToHost) -> None:
        """Send a message; one to a host that has ended is lost, which ``receive`` tells."""
        with contextlib.suppress(OSError), self._sending:
            self._socket.sendall(frame(message))

    def receive(self) -> Iterator[FromHost] | None:
        """Read once, and return the messages that are there; None if the host has ended."""
        received = self._frames.receive(self._socket)
        return None if received is None else map(decode_from_host, received)

    def end(self, patience_s: float) -> int:
        """Close the socket, which ends the host, and kill what has not ended in time.

        Returns:
            The exit status, negative for a signal.
        """
        with self._sending:
            self._socket.close()
        until = time.monotonic() + patience_s
        while not self._has_ended() and time.monotonic() < until:
            time.sleep(_LOOK_S)
        # Its id is its own until it is waited for.
        os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()

    def _has_ended(self) -> bool:
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, how) is not None
