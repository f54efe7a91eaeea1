"""Keeps every request without its text, as a trace that a simulation can replay.

The log's line of a request (``request_log``) is for people who look for one; this file is for
``braid simulate``. A thread writes it, so requests never wait for a disk: what a failing disk, or a
crowd, leaves no room for is counted and lost.
"""

import contextlib
import fcntl
import os
import threading
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from cluster.clock import Clock
from cluster.config import TraceLogConfig
from cluster.domain.adapter import WeightedAdapter
from cluster.domain.ids import TenantId
from cluster.simulation.trace import ServedFacts, TraceRequest
from cluster.simulation.traces.prompt_prefixes import chain_hash
from cluster.simulation.traces.trace_file import TraceHeader, encode_header, encode_request
from deployments.local.log_file import turn_over

log = structlog.get_logger(__name__)

FLUSH_S = 0.5
"""Lines of so long may be lost with a killed front."""
MOST_KEPT = 20_000
"""Requests that may wait for the thread."""
MOST_TOKENS_KEPT = 4_000_000
"""Tokens of their prompts, in all: up to 36 bytes each while a disk stands still."""
MOST_FRONTS = 256
DIGEST_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One sequence that has ended, as the front has it. Times are monotonic seconds."""

    started: float
    tenant: TenantId
    mixture: tuple[WeightedAdapter, ...]
    prompt_token_ids: tuple[int, ...]
    generated: int
    max_tokens: int
    deadline_s: float
    replica: str
    tier_found: str
    ttft: float | None
    e2e: float
    outcome: str
    queued: float | None = None
    pick: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PrefixKeys:
    """Hashes the blocks of prompts, so that equal beginnings are seen and texts cannot be guessed.

    Attributes:
        salt: secret of the cluster, at most 64 bytes.
        block_tokens: of the engine's KV blocks; only whole ones are hashed.
        apart: equal prompts of different tenants get different hashes.
    """

    salt: bytes
    block_tokens: int
    apart: bool = True

    def chain(self, tenant: TenantId, token_ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return the hashes of a prompt's whole blocks, each with all before it."""
        tokens = array("i", token_ids)
        content, size = tokens.tobytes(), self.block_tokens * tokens.itemsize
        before = tenant.encode() if self.apart else b""
        chain = []
        for begin in range(0, len(content) - size + 1, size):
            before = chain_hash(self.salt, before, content[begin : begin + size])
            chain.append(int.from_bytes(before))
        return tuple(chain)


class TraceLog:
    """Writes the trace of one front. ``offer`` may be called from any thread.

    Args:
        config: path and bounds.
        keys: hashes prompts.
        clock: read when this is made; t = 0 is then.
        on_lines: receives how many lines were ``written`` or ``lost``, from any thread.
    """

    def __init__(
        self,
        config: TraceLogConfig,
        keys: PrefixKeys,
        clock: Clock,
        on_lines: Callable[[str, int], None],
    ) -> None:
        self._config = config
        self._keys = keys
        self._zero = clock.monotonic()
        self._header = TraceHeader(
            start=clock.wall(), block_tokens=keys.block_tokens, about="recorded by a front"
        )
        self._on_lines = on_lines
        self._entries: deque[TraceEntry] = deque()
        self._tokens_kept = 0  # of the prompts of ``_entries``
        self._keeping = threading.Lock()
        self._file: int | None = None
        self._lock: int | None = None  # of the path; held while this front has it
        self._path = config.path
        self._size = 0
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trace-log", daemon=True)
        self._thread.start()

    def offer(self, entry: TraceEntry) -> None:
        """Keep a request, unless too many wait for the disk already."""
        with self._keeping:
            tokens = self._tokens_kept + len(entry.prompt_token_ids)
            crowded = self._entries and tokens > MOST_TOKENS_KEPT
            kept = not (crowded or len(self._entries) >= MOST_KEPT or self._stop.is_set())
            if kept:
                self._entries.append(entry)
                self._tokens_kept = tokens
        if not kept:
            self._on_lines("lost", 1)

    def close(self) -> None:
        """Write what was kept and end the thread; blocks until then, at most 5 s."""
        self._stop.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_S):
            self._flush()
        self._flush()
        for descriptor in (self._file, self._lock):
            if descriptor is not None:
                os.close(descriptor)

    def _flush(self) -> None:
        while self._entries:
            lines = 0
            parts = []
            room = self._config.max_bytes
            while self._entries and room > 0:
                line = self._encode(self._take_entry())
                if line is None:
                    continue
                parts.append(line)
                room -= len(line)
                lines += 1
            self._write(b"".join(parts), lines)

    def _take_entry(self) -> TraceEntry:
        with self._keeping:
            entry = self._entries.popleft()
            self._tokens_kept -= len(entry.prompt_token_ids)
        return entry

    def _encode(self, entry: TraceEntry) -> bytes | None:
        try:
            return encode_request(self._request(entry))
        except Exception as error:  # a request that cannot be written must not end the thread
            self._lose(1, error)
            return None

    def _request(self, entry: TraceEntry) -> TraceRequest:
        adapters = {
            f"{one.key.alias}@{one.key.digest[:DIGEST_CHARACTERS]}" for one in entry.mixture
        }
        return TraceRequest(
            at=max(0.0, entry.started - self._zero),
            tenant=entry.tenant,
            adapters=tuple(sorted(adapters)),
            prompt_tokens=max(1, len(entry.prompt_token_ids)),
            generated_tokens=entry.generated,
            max_tokens=max(1, entry.max_tokens, entry.generated),
            prefix=self._keys.chain(entry.tenant, entry.prompt_token_ids),
            deadline_s=entry.deadline_s,
            served=ServedFacts(
                entry.replica,
                entry.tier_found,
                entry.ttft,
                entry.e2e,
                entry.outcome,
                entry.queued,
                entry.pick,
            ),
        )

    def _write(self, content: bytes, lines: int) -> None:
        if not lines:
            return
        try:
            if self._size + len(content) > self._config.max_bytes:
                self._begin_file()
            file = self._begin_file() if self._file is None else self._file
            self._append(file, content)
        except OSError as error:
            self._lose(lines, error)
            return
        self._on_lines("written", lines)
        if self._failing:
            self._failing = False
            with contextlib.suppress(OSError):
                log.info("trace_log.writes_again", path=str(self._path))

    def _append(self, file: int, content: bytes) -> None:
        """Write all or nothing, so that no line is cut.

        Raises:
            OSError: nothing was written, or the file was given up.
        """
        left = memoryview(content)
        try:
            while left:
                left = left[os.write(file, left) :]
        except OSError:
            try:
                os.ftruncate(file, self._size)
            except OSError:  # the next lines go to a new file
                self._give_up()
            raise
        self._size += len(content)

    def _begin_file(self) -> int:
        """Turn over what is at the path, and begin a new file there.

        Raises:
            OSError: it cannot be made.
        """
        if self._lock is None:
            self._lock = self._take_path()
        self._give_up()
        turn_over(self._path, 1, self._config.files - 1)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o600)
        self._file, self._size = file, 0
        try:
            self._append(file, encode_header(self._header))
        except OSError:  # no line may come without a header
            self._give_up()
            raise
        return file

    def _give_up(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _take_path(self) -> int:
        """Choose the first path that no other front of this machine has, and lock it.

        Raises:
            OSError: there is none, or the folder cannot be written to.
        """
        given = self._config.path
        given.parent.mkdir(parents=True, exist_ok=True)
        for number in range(MOST_FRONTS):
            path = given.with_name(f"{given.stem}-{number}{given.suffix}") if number else given
            lock = os.open(_lock_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            except OSError:  # a file system without locks; it is tried again and again
                os.close(lock)
                raise
            self._path = path
            return lock
        raise OSError(f"{MOST_FRONTS} fronts write there already")

    def _lose(self, lines: int, error: Exception) -> None:
        self._on_lines("lost", lines)
        if not self._failing:  # one line for a failure that goes on
            self._failing = True
            with contextlib.suppress(OSError):  # the log may be on the same full disk
                log.warning("trace_log.failed", path=str(self._path), error=repr(error))


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")
