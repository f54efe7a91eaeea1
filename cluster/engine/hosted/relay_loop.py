"""The loop of a hosted engine: one thread between the requests and the host's process.

It alone starts and ends the process, reads from it and calls back, so the chunks of a request come
in order from one thread. What others send to the host (adapters) goes over the same socket; the
host does everything in the order in which it comes, so a slot may be filled again as soon as the
sequences over it were aborted.
"""

from __future__ import annotations

import contextlib
import math
import selectors
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future

import structlog

from cluster.clock import Clock
from cluster.domain.request import FinishReason, GenerationChunk
from cluster.engine.engine_counters import EngineCounters
from cluster.engine.hosted.host_calls import HostCalls
from cluster.engine.hosted.host_link import END_S, HostLink
from cluster.engine.hosted.host_requests import generate_message
from cluster.engine.hosted.hosted_requests import HostedRequests, HostedSequence
from cluster.engine.hosted.messages import (
    Abort,
    Answer,
    CountLive,
    Failed,
    FromHost,
    Ready,
    StepDone,
)
from cluster.engine.hosted.step_account import StepAccount
from cluster.engine.port import OnChunks
from cluster.engine.request_notes import note_failed
from cluster.engine.steps import last_chunk
from cluster.errors import BraidError, IntegrityError, ReplicaLost

log = structlog.get_logger(__name__)

LOOK_S = 0.25
"""Longest time between two looks at deadlines."""


class RelayLoop:
    """Relays between the requests and a host, until it has to stop or the host ends.

    Args:
        link: to the host; opened by ``open``.
        clock: time of deadlines and of the heartbeat.
        on_chunks: receives each step's chunks.
        on_end: called last, when the host has ended.
    """

    def __init__(
        self, link: HostLink, clock: Clock, on_chunks: OnChunks, on_end: Callable[[], None]
    ) -> None:
        self._link = link
        self._clock = clock
        self._on_chunks = on_chunks
        self._on_end = on_end
        self.calls = HostCalls(link.send)
        self.counters = EngineCounters()
        self.preemptions = 0
        self.kv_free = 0
        self._woken, self._waking = socket.socketpair()
        self._waking.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._opened = Future[Ready]()
        self._requests: HostedRequests | None = None
        self._account: StepAccount | None = None
        self._attached = threading.Event()
        self._ended: list[GenerationChunk] = []  # last chunks that are still to be delivered
        self._heard_at = clock.monotonic()
        self._left_at_end: int | None = None  # sequences that the host still had
        self._thread = threading.Thread(target=self._run, name="engine-relay", daemon=True)

    def open(self) -> Ready:
        """Start the thread and with it the host.

        Raises:
            ConfigError: as ``HostLink.open``.
        """
        self._thread.start()
        return self._opened.result()

    def attach(self, requests: HostedRequests, account: StepAccount) -> None:
        """Relay for these requests from now on."""
        self._requests, self._account = requests, account
        self.kv_free = requests.kv_blocks
        self._attached.set()

    def wake(self) -> None:
        """Let the thread look at the requests."""
        # It has not followed earlier ones yet, or has ended.
        with contextlib.suppress(OSError):
            self._waking.send(b".")

    def join(self, timeout_s: float | None) -> bool:
        """Wait for the thread to end; reports whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stalled_for(self) -> float:
        """Return the seconds since the host was heard of while it has something to do."""
        requests = self._requests
        if requests is None or not requests.started or not self._thread.is_alive():
            return math.inf
        return self._clock.monotonic() - self._heard_at if requests.sent else 0.0

    def check_integrity(self) -> None:
        """Raise IntegrityError if the host had sequences left when it ended."""
        if self._left_at_end:
            raise IntegrityError(f"the host ended with {self._left_at_end} sequences, expected 0")

    # The thread

    def _run(self) -> None:
        try:
            self._opened.set_result(self._link.open())
        except Exception as error:
            self._link.close()
            self._on_end()
            self._opened.set_exception(error)
            return
        self._attached.wait()
        self._selector.register(self._link.process, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        try:
            while self._goes_on():
                self._turn()
        except Exception as error:
            log.critical("engine relay failed", exc_info=error)
        self._end()

    @property
    def _books(self) -> HostedRequests:
        assert self._requests is not None
        return self._requests

    def _goes_on(self) -> bool:
        books = self._books
        with books.changed:
            return not books.stopping or bool(books.live)

    def _turn(self) -> None:
        """Do what was asked for, then take what the host has sent, if anything."""
        self._follow_orders()
        ready = {key.fileobj for key, _ in self._selector.select(self._patience())}
        if self._woken in ready:
            self._woken.recv(4096)
        if self._link.process not in ready:
            return
        received = self._link.process.receive()
        if received is None:
            raise ReplicaLost("the engine host has ended")
        for message in received:
            self._heard_at = self._clock.monotonic()
            self._take(message)
            self._follow_orders()

    def _patience(self) -> float | None:
        with self._books.changed:
            return None if self._books.next_deadline() == math.inf else LOOK_S

    def _take(self, message: FromHost) -> None:
        match message:
            case StepDone():
                self._deliver(self._commit(message))
            case Answer():
                self.calls.take(message)
            case Failed():
                raise ReplicaLost(f"the engine host has failed: {message.message}")

    def _commit(self, step: StepDone) -> list[GenerationChunk]:
        assert self._account is not None
        with self._books.changed:
            self.kv_free = step.kv_free
            self.preemptions += step.preempted
            chunks, to_abort = self._account.commit(step, self._clock.monotonic())
            if to_abort:
                self._link.send(Abort(to_abort))
        return chunks

    def _follow_orders(self) -> None:
        """End what was cancelled or is past its deadline, and send the host what it may begin."""
        books = self._books
        with books.changed:
            self._end_cancelled()
            self._expire()
            if books.started and not books.aborting:
                self._send_next()
        self._deliver(self._take_ended())

    def _send_next(self) -> None:
        books = self._books
        if not books.sent:
            self._heard_at = self._clock.monotonic()
        for request in books.admit():
            self._link.send(generate_message(request, books.vocab_size))

    def _end_cancelled(self) -> None:
        books = self._books
        for request_id in books.cancelled:
            request = books.live.get(request_id)
            if request is not None:
                self._end_one(request, FinishReason.CANCELLED)
        books.cancelled.clear()
        if books.aborting:
            self._fail_all(ReplicaLost("the replica is stopping"))

    def _expire(self) -> None:
        """End what is past its deadline, or complete as it came."""
        books, now = self._books, self._clock.monotonic()
        for request in tuple(books.live.values()):
            deadline = request.sequence.request.deadline_at
            waits = request.number < 0 and books.started
            reason = request.sequence.end_by_tokens if waits else None
            if reason is None and deadline is not None and deadline <= now:
                reason = FinishReason.DEADLINE
            if reason is not None:
                self._end_one(request, reason)

    def _end_one(
        self, request: HostedSequence, reason: FinishReason, error: BraidError | None = None
    ) -> None:
        """End a request without a token."""
        if self._books.end(request, reason):
            self._link.send(Abort([request.number]))
        if error is not None:
            self.counters.failed_requests += 1
            note_failed(request.sequence, error)
        self._ended.append(last_chunk(request.sequence, error))

    def _fail_all(self, error: BraidError) -> None:
        for request in tuple(self._books.live.values()):
            self._end_one(request, FinishReason.ERROR, error)

    def _take_ended(self) -> list[GenerationChunk]:
        ended, self._ended = self._ended, []
        return ended

    def _deliver(self, chunks: list[GenerationChunk]) -> None:
        if not chunks:
            return
        try:
            self._on_chunks(chunks)
        except Exception:
            self.counters.callback_failures += 1
            log.exception("the receiver of chunks failed", chunks=len(chunks))

    # The end

    def _end(self) -> None:
        """End all requests that are left, and the host."""
        lost = ReplicaLost("the engine host has ended; the replica cannot go on")
        with self._books.changed:
            self._books.stopping = True
            self._fail_all(lost)
        self._deliver(self._take_ended())
        self._selector.unregister(self._woken)
        self._count_left()
        self._selector.close()
        self._link.close()
        self._woken.close()
        self._waking.close()
        self.calls.lose(lost)
        self._on_end()

    def _count_left(self) -> None:
        """Ask the host what it still has once it has followed all orders."""
        answer = self.calls.begin(CountLive)
        while not answer.done():
            ready = self._selector.select(END_S)
            received = self._link.process.receive() if ready else None
            if received is None:
                return
            for message in received:
                if isinstance(message, Answer):
                    self.calls.take(message)
        self._left_at_end, self.kv_free = answer.result().live, answer.result().kv_free
