"""The requests of a hosted engine, shared by the threads that submit and the thread that relays.

Everything here is touched under the lock ``changed`` alone. Requests wait here, in the order of
`scheduling.admission_order`, and at most ``max_batch_size`` are with the host: it has no queue of
its own, so no tenant's requests stand before another's there.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from cluster.config import EngineConfig
from cluster.domain.ids import AdapterDigest, RequestId, TenantId
from cluster.domain.request import FinishReason
from cluster.engine.scheduling.admission_order import AdmissionOrder
from cluster.engine.sequence import EngineSequence, SequenceStatus
from cluster.errors import IntegrityError, PromptTooLong, RequestError
from cluster.expected_length import ExpectedLength


@dataclass(slots=True, eq=False)
class HostedSequence:
    """A request, and what the host knows it by."""

    sequence: EngineSequence
    adapters: tuple[tuple[str, float], ...]  # (name at the host, weight)
    number: int = -1  # at the host; -1 until it is there

    @property
    def id(self) -> RequestId:
        """The request's id."""
        return self.sequence.request_id


@dataclass(slots=True, eq=False)
class HostedRequests:
    """The live requests, in the queue or with the host.

    Args:
        config: batch size, queue and fairness.
        kv_blocks: that the host has.
        vocab_size: tokens that the model has.
    """

    config: EngineConfig
    kv_blocks: int
    vocab_size: int
    order: AdmissionOrder
    expected: ExpectedLength = field(default_factory=ExpectedLength)
    changed: threading.Lock = field(default_factory=threading.Lock)
    live: dict[RequestId, HostedSequence] = field(default_factory=dict)
    sent: dict[int, HostedSequence] = field(default_factory=dict)  # with the host, by number
    cancelled: list[RequestId] = field(default_factory=list)
    begun: int = 0  # numbers given out
    started: bool = False
    stopping: bool = False  # takes no more requests, and ends when none is live
    aborting: bool = False  # ends those that are live, too

    @classmethod
    def over(cls, config: EngineConfig, kv_blocks: int, vocab_size: int) -> HostedRequests:
        """Return the books of an engine that has no requests yet."""
        return cls(config, kv_blocks, vocab_size, AdmissionOrder(config))

    def add(self, request: HostedSequence) -> None:
        """Queue a request.

        Raises:
            RequestError: a live one has the same id.
            PromptTooLong: alone, at its full length, it would not fit the host's KV blocks.
            Overloaded: the queue is full.
        """
        if request.id in self.live:
            raise RequestError(
                f"request id {request.id} is already being served", param="request_id"
            )
        longest = max(request.sequence.max_len - 1, request.sequence.num_tokens)
        needed = -(-longest // self.config.block_size)
        if needed > self.kv_blocks:
            raise PromptTooLong(
                f"prompt and completion may need {needed} KV blocks of {self.config.block_size} "
                f"tokens; the replica has {self.kv_blocks}",
                param="prompt",
            )
        self.order.append(request.sequence)
        self.live[request.id] = request

    def admit(self) -> Iterator[HostedSequence]:
        """Yield the requests that the host may begin now, in turn."""
        while len(self.sent) < self.config.max_batch_size:
            sequence = self.order.next()
            if sequence is None:
                return
            room = sequence.max_len - sequence.num_tokens
            cost = sequence.num_uncomputed + self.expected.expect(kind_of(sequence), room)
            self.order.admit(sequence, max(1, cost), 0)
            sequence.status = SequenceStatus.RUNNING
            request = self.live[sequence.request_id]
            request.number = self.begun
            self.begun += 1
            self.sent[request.number] = request
            yield request

    def end(self, request: HostedSequence, reason: FinishReason) -> bool:
        """Remove a request that has ended; reports whether the host has it."""
        sequence = request.sequence
        at_host = self.sent.pop(request.number, None) is not None
        if at_host:
            self.order.leave_batch(sequence)
        else:
            self.order.remove(sequence)
        del self.live[request.id]
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            room = sequence.max_len - sequence.prompt_len
            self.expected.observe(kind_of(sequence), sequence.num_generated, room)
        sequence.status, sequence.finish_reason = SequenceStatus.FINISHED, reason
        return at_host

    def withdraw(self, request_id: RequestId) -> bool:
        """Forget a request that is not with the host; else False."""
        request = self.live.get(request_id)
        if request is None or request.number >= 0 or request_id in self.cancelled:
            return False
        self.order.remove(request.sequence)
        del self.live[request_id]
        return True

    def next_deadline(self) -> float:
        """Return the earliest deadline of a live request, in monotonic seconds."""
        found = (one.sequence.request.deadline_at for one in self.live.values())
        return min((at for at in found if at is not None), default=math.inf)

    def backlog(self) -> dict[TenantId, int]:
        """Return the tokens of prompts that are still to be computed, by tenant; none has 0."""
        tokens: Counter[TenantId] = Counter()
        for request in self.live.values():
            left = request.sequence.prompt_len - request.sequence.num_computed
            if left > 0:
                tokens[request.sequence.request.tenant] += left
        return dict(tokens)

    def check_integrity(self) -> None:
        """Check the books against each other.

        Raises:
            IntegrityError: with both numbers.
        """
        running = [request.sequence for request in self.sent.values()]
        self.order.check_integrity(running)
        if len(running) + len(self.order) != len(self.live):
            raise IntegrityError(
                f"{len(self.live)} requests are live, {len(self.order)} of them wait and "
                f"{len(running)} are with the host"
            )


def kind_of(sequence: EngineSequence) -> tuple[TenantId, tuple[AdapterDigest, ...]]:
    """Return a key of requests that probably get answers of similar length."""
    return sequence.request.tenant, sequence.request.digests
