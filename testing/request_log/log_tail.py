"""The log as it grows: when each request's id was first in it."""

import threading
import time
from pathlib import Path
from typing import Any

import orjson

POLL_S = 0.01


class LogTail:
    """Reads a log file in a thread, from its beginning to ``close``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._closing = threading.Event()
        self._changed = threading.Condition()
        self._lines: dict[str, list[tuple[float, dict[str, Any]]]] = {}  # by request
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def lines(self, request: str) -> list[tuple[float, dict[str, Any]]]:
        """List all lines of a request, each with the time (monotonic, seconds) of its arrival."""
        with self._changed:
            return list(self._lines.get(request, ()))

    def line(self, request: str) -> tuple[float, dict[str, Any]] | None:
        """Return the line that the front writes of a request; None until it is there."""
        return next((item for item in self.lines(request) if item[1]["event"] == "request"), None)

    def wait_for(self, request: str, timeout_s: float) -> bool:
        """Wait until some line has the request's id; returns False if none came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: request in self._lines, timeout_s)

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join()

    def _read(self) -> None:
        rest = b""
        with self._path.open("rb") as file:
            while not self._closing.is_set():
                piece = file.read()
                if not piece:
                    time.sleep(POLL_S)
                    continue
                *whole, rest = (rest + piece).split(b"\n")
                self._take([line for line in whole if line.startswith(b"{")])

    def _take(self, lines: list[bytes]) -> None:
        now = time.monotonic()
        parsed = [orjson.loads(line) for line in lines]
        with self._changed:
            for fields in parsed:
                request = fields.get("request")
                if isinstance(request, str):
                    self._lines.setdefault(request, []).append((now, fields))
            self._changed.notify_all()
