"""Writes log lines: one write of a whole line to the process's standard output.

Nothing is held back, so what was written is there after a SIGKILL. Nothing waits either: where
standard output is a pipe whose reader has stopped, lines are kept in memory, up to a bound, and a
thread writes them in order once the reader continues.
"""

import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson

STDOUT, STDERR = 1, 2
PIPE_BYTES = 4096
"""A pipe that has room at all takes this much without waiting (PIPE_BUF)."""
KEPT_BYTES = 4 * 2**20
SYNC_INTERVAL_S = 1.0


def encode_line(fields: Mapping[str, object]) -> bytes:
    """Encode one JSON object and a line feed; what JSON does not know is written as text."""
    try:
        return orjson.dumps(fields, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # half of a surrogate pair, or an integer beyond 64 bits
        plain = {_ascii(name): _ascii(str(value)) for name, value in fields.items()}
        return orjson.dumps(plain, option=orjson.OPT_APPEND_NEWLINE)


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


class LineSink:
    """Writes lines to the first of ``descriptors``. Callable from any thread.

    Args:
        path: a file that ``descriptors`` are pointed to; they move to the new file of that name
            once it has been renamed away. None leaves them as they are.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        path: Path | None = None,
        descriptors: tuple[int, ...] = (STDOUT, STDERR),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._descriptors = descriptors
        self._out = descriptors[0]
        self._clock = clock
        self._changed = threading.Condition()
        self._kept: deque[bytes] = deque()  # not empty while the thread runs
        self._kept_bytes = 0
        self._lost = 0  # lines, since that was last written
        self._followed_at = clock()
        if path is not None:
            self._point_to(path)
        self._poll = _poll_of(self._out)

    def write(self, line: bytes) -> None:
        """Write ``line``, which ends in a line feed. Raises nothing and waits for no reader."""
        with self._changed:
            self._follow()
            if self._kept or not self._has_room(len(line)):
                self._keep(line)
            elif self._put(line) and self._lost:
                self._report_loss()

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing is kept any more, at most ``timeout_s`` seconds; False where that
        was too short."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._kept, timeout_s)

    def _has_room(self, size: int) -> bool:
        return self._poll is None or (size <= PIPE_BYTES and bool(self._poll.poll(0)))

    def _put(self, line: bytes) -> bool:
        """Write all of ``line``, waiting where a descriptor does so; False where it was lost."""
        try:
            while line:
                try:
                    line = line[os.write(self._out, line) :]
                except BlockingIOError:  # another process made the descriptor non-blocking
                    select.select([], [self._out], [])
        except OSError:  # the reader has gone, or the disk is full
            self._lost += 1
            return False
        return True

    def _report_loss(self) -> None:
        lost, self._lost = self._lost, 0
        self._put(encode_line({"event": "log.lines_lost", "level": "error", "lines": lost}))

    def _keep(self, line: bytes) -> None:
        if self._kept_bytes + len(line) > KEPT_BYTES:
            self._lost += 1
            return
        self._kept.append(line)
        self._kept_bytes += len(line)
        if len(self._kept) == 1:
            threading.Thread(target=self._drain, name="log-lines", daemon=True).start()

    def _drain(self) -> None:
        """Write what is kept, in order; the only writer until nothing is left."""
        while True:
            line = self._kept[0]
            written = self._put(line)
            with self._changed:
                if written and self._lost and len(self._kept) == 1:
                    self._report_loss()
                self._kept.popleft()
                self._kept_bytes -= len(line)
                if not self._kept:
                    self._changed.notify_all()
                    return

    def _follow(self) -> None:
        """Move to the file that has the name now, if ours was renamed or removed."""
        if self._path is None or self._clock() - self._followed_at < SYNC_INTERVAL_S:
            return
        self._followed_at = self._clock()
        try:
            moved = not os.path.samestat(self._path.stat(), os.fstat(self._out))
        except OSError:
            moved = True
        if moved:
            self._point_to(self._path)

    def _point_to(self, path: Path) -> None:
        try:
            opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # its folder has gone: what is open serves on
            return
        try:
            for descriptor in self._descriptors:
                os.dup2(opened, descriptor)
        finally:
            os.close(opened)


def _poll_of(descriptor: int) -> "select.poll | None":
    """Return a poll that tells whether a write would wait, or None for a regular file."""
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
    except OSError:
        return None
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return poll
