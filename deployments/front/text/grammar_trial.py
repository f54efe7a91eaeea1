"""Tries grammars out in a process of its own, bounded in time, memory and stack."""

import asyncio
import contextlib
import select
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import IO

import structlog

from cluster.domain.ids import TenantId
from cluster.errors import Overloaded
from deployments.front.entry.tenant_gate import TenantGate
from deployments.front.text.grammar_helper import LENGTH

log = structlog.get_logger(__name__)

ANSWER_S = 5.0
"""Longest trial, wall clock: several times the processor time that a grammar may take."""
START_S = 60.0
MAX_WAITING = 64
WAIT_S = 30.0


class TrialVerdict(StrEnum):
    """Says how the trial of a grammar ended."""

    OK = "ok"
    BAD = "bad"  # it does not compile
    COMPLEX = "complex"  # it takes too much time or memory
    LATE = "late"  # no answer in time; the machine may only be busy


CRASHED = (TrialVerdict.COMPLEX, "it cannot be tried within the memory that a grammar may take")
LATE = (TrialVerdict.LATE, "it was not tried in time")


class GrammarTrial:
    """Asks the helper process; one grammar at a time, tenants in turn.

    Args:
        model_dir: folder with tokenizer.json, whose tokens the trials take.
    """

    def __init__(self, model_dir: Path) -> None:
        self._tokenizer = model_dir / "tokenizer.json"
        self._gate = TenantGate(1, 1, MAX_WAITING, WAIT_S)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        self._helper: subprocess.Popen[bytes] | None = None
        self._fresh = True

    async def ask(self, tenant: TenantId, grammar: str) -> tuple[TrialVerdict, str]:
        """Try a grammar; returns the verdict and the reason.

        Raises:
            Overloaded: too many of the tenant's grammars wait, or the helper cannot be started.
        """
        await self._gate.acquire(tenant)
        try:
            future = asyncio.get_running_loop().run_in_executor(
                self._thread, self._ask, grammar.encode()
            )
        except BaseException:
            self._gate.release(tenant)
            raise
        future.add_done_callback(lambda _: self._gate.release(tenant))
        return await asyncio.shield(future)

    def close(self) -> None:
        """End the helper."""
        self._thread.submit(self._end)
        self._thread.shutdown(wait=False)

    def _ask(self, grammar: bytes) -> tuple[TrialVerdict, str]:
        try:
            helper = self._started()
        except OSError as error:
            raise Overloaded(f"grammars cannot be tried at present: {error.strerror}") from error
        assert helper.stdin is not None
        assert helper.stdout is not None
        patience = START_S if self._fresh else ANSWER_S
        self._fresh = False
        try:
            helper.stdin.write(LENGTH.pack(len(grammar)) + grammar)
            helper.stdin.flush()
            until = time.monotonic() + patience
            (size,) = LENGTH.unpack(_read(helper.stdout, LENGTH.size, until))
            kind, _, problem = _read(helper.stdout, size, until).decode().partition("\n")
        except (OSError, EOFError) as error:
            log.warning("front.grammar_helper_ended", reason=repr(error))
            self._end()
            return LATE if isinstance(error, TimeoutError) else CRASHED
        return TrialVerdict(kind), problem

    def _started(self) -> subprocess.Popen[bytes]:
        if self._helper is None or self._helper.poll() is not None:
            command = [sys.executable, "-m", "deployments.front.text.grammar_helper"]
            self._helper = subprocess.Popen(
                [*command, str(self._tokenizer)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
            self._fresh = True
        return self._helper

    def _end(self) -> None:
        helper, self._helper = self._helper, None
        if helper is None:
            return
        helper.kill()
        for pipe in (helper.stdin, helper.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        helper.wait()


def _read(pipe: IO[bytes], size: int, until: float) -> bytes:
    """Read exactly ``size`` bytes. Raises EOFError or TimeoutError."""
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    received = b""
    while len(received) < size:
        if not poller.poll(max(0.0, until - time.monotonic()) * 1000):
            raise TimeoutError("no answer in time")
        part = pipe.read(size - len(received))
        if not part:
            raise EOFError("the process has ended")
        received += part
    return received
