"""The link to an engine host, from the start of its process to its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import structlog

from cluster.engine.hosted.environment import INSTALL
from cluster.engine.hosted.host_process import HostProcess
from cluster.engine.hosted.messages import Failed, Ready, Start, ToHost
from cluster.errors import ConfigError

log = structlog.get_logger(__name__)

END_S = 5.0
"""Time for the host to end by itself."""


class HostLink:
    """The host's process, once the loop's thread has started it."""

    def __init__(self, python: Path, environment: Mapping[str, str], start: Start) -> None:
        self._python = python
        self._environment = environment
        self._start = start
        self._process: HostProcess | None = None

    def open(self) -> Ready:
        """Start the process, and wait until it has loaded its model.

        Raises:
            ConfigError: it cannot; the message has its reason.
        """
        try:
            self._process = HostProcess(self._python, self._environment)
        except OSError as error:
            raise ConfigError(f"{self._python} cannot be run: {error}") from error
        self.send(self._start)
        while (received := self._process.receive()) is not None:
            for message in received:
                if isinstance(message, Ready):
                    return message
                if isinstance(message, Failed):
                    hint = f"; run `{INSTALL}`" if "ModuleNotFound" in message.message else ""
                    raise ConfigError(
                        f"vLLM cannot serve {self._start.model}: {message.message}{hint}"
                    )
        raise ConfigError(f"vLLM ended while it loaded {self._start.model}; its log says why")

    @property
    def process(self) -> HostProcess:
        """The process; ``open`` comes first."""
        assert self._process is not None
        return self._process

    def send(self, message: ToHost) -> None:
        """Send a message; one to a host that has ended is lost."""
        self.process.send(message)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            status = self._process.end(END_S)
            log.info("engine_host.ended", pid=self._process.pid, status=status)
