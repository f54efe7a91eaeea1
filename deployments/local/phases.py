"""The phases of a local cluster, and how its node tells them to the supervisor."""

import json
import os
from dataclasses import asdict, dataclass

RUNNING = "running"
RECOVERING = "recovering"
"""Requests are answered, but Ray's control service is down: nothing is started or moved."""
RESTARTING = "restarting"
STOPPING = "stopping"
STOPPED = "stopped"
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Phase:
    """One report: the phase, and what led to it if that is not obvious."""

    name: str
    reason: str | None = None


class PhaseWriter:
    """Writes phases to a pipe, one JSON object a line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write_phase(self, phase: Phase) -> None:
        """Report ``phase``; a reader that has gone is of no concern."""
        try:
            os.write(self._descriptor, json.dumps(asdict(phase)).encode() + b"\n")
        except BrokenPipeError:
            return


class PhaseReader:
    """Reads phases from a pipe without waiting."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._rest = b""

    def read_phases(self) -> list[Phase]:
        """Return the phases that have arrived since the last call."""
        while True:
            try:
                part = os.read(self._descriptor, 65536)
            except BlockingIOError:
                break
            if not part:
                break
            self._rest += part
        *lines, self._rest = self._rest.split(b"\n")
        return [Phase(**json.loads(line)) for line in lines]

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._descriptor)
