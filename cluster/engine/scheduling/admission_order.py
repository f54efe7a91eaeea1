"""Decides who enters the batch next, and who leaves it for another tenant.

While rows are short, tenants that are owed some come first (``scheduling.row_shares``), and while
blocks are, a tenant without a row (``scheduling.block_claims``); then sequences that were
preempted, in order of admission; then those that were never admitted, in the order of
``scheduling.fair_queue``.
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache

from cluster.config import EngineConfig
from cluster.domain.ids import TenantId
from cluster.engine.scheduling.batch_integrity import check_order, check_waiting
from cluster.engine.scheduling.block_claims import (
    KvRoom,
    row_to_preempt,
    rows_for_blocks,
    youngest_rows,
)
from cluster.engine.scheduling.fair_queue import FairQueue
from cluster.engine.scheduling.queue_limit import refuse_if_full
from cluster.engine.scheduling.row_shares import RowShares
from cluster.engine.sequence import EngineSequence

MAX_PASSES = 32  # admissions that may pass a sequence which waits for another's blocks


class AdmissionOrder:
    """Holds the sequences that wait, and counts those in the batch, which its owner holds."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._queue = FairQueue(fair=config.fairness == "adapter", max_passes=MAX_PASSES)
        self._preempted: list[EngineSequence] = []  # in order of admission
        self._shares = RowShares(
            config.max_batch_size, config.max_batch_tokens, enabled=config.fairness == "adapter"
        )
        self._claimant: TenantId | None = None  # that is first in this step
        self._running = 0
        self._arrivals = 0
        self._admissions = 0

    def __len__(self) -> int:
        """Return how many sequences wait."""
        return len(self._preempted) + len(self._queue)

    def __iter__(self) -> Iterator[EngineSequence]:
        """Return the sequences that wait: those admitted before in that order, then the others."""
        yield from self._preempted
        yield from self._queue

    @property
    def is_contended(self) -> bool:
        """Report whether several tenants have sequences, and may claim rows of each other."""
        return self._shares.is_contended

    def append(self, sequence: EngineSequence) -> None:
        """Queue a sequence that has come.

        Raises:
            Overloaded: too many wait; see ``refuse_if_full``.
        """
        request = sequence.request
        refuse_if_full(request, self._config, self._shares, len(self), self._running)
        sequence.arrival = self._arrivals
        self._arrivals += 1
        self._queue.append(sequence)
        self._shares.join(request.tenant, request.weight)

    def sharing_prompts(self, prefilling: Iterable[TenantId]) -> dict[TenantId, float]:
        """Return the weights of the tenants that share a step's prompt tokens.

        These are the tenants with prompts under way, and those that wait while a place is free.
        """
        if not self._shares.is_contended:
            return {}
        tenants = set(prefilling)
        if tenants and self._running < self._config.max_batch_size:
            tenants.update(self._waiting_tenants())
        return self._shares.weights_of(tenants) if len(tenants) > 1 else {}

    def remove(self, sequence: EngineSequence) -> None:
        """Take a sequence out that waits and has ended or is withdrawn."""
        if sequence.admission >= 0:
            self._preempted.remove(sequence)
        else:
            self._queue.remove(sequence)
        self._shares.leave(sequence.request.tenant)

    def next(self) -> EngineSequence | None:
        """Return the sequence to be admitted next; None if none waits, or all wait for others'
        blocks."""
        places = self._config.max_batch_size - self._running
        if self._claimant is not None or (self._shares.is_contended and len(self) > places):
            for tenant in self._shares.owed(self._waiting_tenants()):
                return self._next_of(tenant)
        return self._preempted[0] if self._preempted else self._queue.peek()

    def defer(self, sequence: EngineSequence, event: str) -> bool:
        """Let others pass the one that is next until an event; see ``FairQueue.defer``."""
        return self._queue.defer(event, sequence.request.tenant)

    def resume_deferred(self, event: str) -> None:
        """Let those take part again that were deferred until ``event``."""
        self._queue.resume_deferred(event)

    def admit(self, sequence: EngineSequence, cost: int, computed: int) -> None:
        """Take the one that is next into the batch.

        Args:
            cost: tokens to compute for it; they count for its tenant at its first admission.
            computed: tokens of it that need not be computed.
        """
        tenant = sequence.request.tenant
        if sequence.admission >= 0:
            self._preempted.remove(sequence)
        else:
            self._queue.pop(cost, tenant)
            sequence.admission = self._admissions
            self._admissions += 1
        self._shares.start_row(tenant, max(0, sequence.kept_tokens - computed))
        sequence.kept_tokens = 0
        self._claimant = None
        self._running += 1

    def put_back(self, sequence: EngineSequence) -> None:
        """Let a sequence wait that leaves the batch without having ended."""
        self._shares.end_row(sequence.request.tenant)
        self._running -= 1
        bisect.insort(self._preempted, sequence, key=admission_of)

    def leave_batch(self, sequence: EngineSequence) -> None:
        """Count a sequence less that leaves the batch for good."""
        self._shares.end_row(sequence.request.tenant)
        self._shares.leave(sequence.request.tenant)
        self._running -= 1

    def count_step(self, computed: Iterable[tuple[EngineSequence, int, int]]) -> None:
        """Count the tokens that a step computed, each once: not again after a preemption.

        Args:
            computed: sequences, each with the first of its tokens and the one after the last.
        """
        new = []
        for sequence, start, end in computed:
            counted = sequence.num_counted
            if end > counted:
                new.append((sequence.request.tenant, end - max(start, counted)))
                sequence.num_counted = end
        self._shares.count_step(new)

    def begin_step(self) -> bool:
        """Forget who claimed rows in the last step; report whether someone may claim some now."""
        self._claimant = None
        return self._shares.is_contended and len(self) > 0

    def rows_to_yield(
        self, running: Sequence[EngineSequence], room: KvRoom
    ) -> list[EngineSequence]:
        """Return the rows that are to leave the batch for a tenant that claims some.

        Call it before a step, and ``yield_row`` for each of them. The claimant comes first then.
        """
        if not self.begin_step():
            return []
        if self._running >= self._config.max_batch_size:  # each row may be looked at many times
            room = replace(room, held=cache(room.held))
        for tenant, offers in self._claims(running):
            for offered in offers:
                rows = self._rows_for(tenant, offered, running, room)
                if rows is not None:
                    self._claimant = tenant
                    return rows
            if not self._shares.has_row(tenant):
                break  # it waits for blocks, and others without a row do not pass it
        return []

    def yield_row(self, row: EngineSequence, computed: int, published: int) -> None:
        """Note that a row is about to leave the batch for another tenant.

        Args:
            computed: tokens of it that were computed.
            published: its blocks at the start that can be found by what they hold.
        """
        kept = published * self._config.block_size if self._config.prefix_cache else 0
        row.kept_tokens = kept
        self._shares.count_lost(computed - kept)

    def row_to_preempt(
        self, decode: EngineSequence, running: Sequence[EngineSequence], room: KvRoom
    ) -> EngineSequence:
        """Return the row that leaves the batch so that a decode has a block; it may be its own."""
        if not self._shares.is_contended:
            return running[-1]
        return row_to_preempt(decode, running, room, self._shares.parts())

    def check_integrity(self, running: Iterable[EngineSequence]) -> None:
        """Check the books against each other and the batch.

        Raises:
            IntegrityError: with both numbers.
        """
        self._queue.check_integrity()
        check_waiting((*self._preempted, *self._queue))
        check_order(self._preempted)
        self._shares.check_integrity(
            [sequence.request.tenant for sequence in running],
            [sequence.request.tenant for sequence in self],
        )

    def _claims(
        self, running: Sequence[EngineSequence]
    ) -> Iterator[tuple[TenantId, list[list[EngineSequence]]]]:
        """Yield the tenants that claim a row or blocks, in turn, each with its choices: the first
        row that yields to it, or no row if a place is free."""
        waiting = self._waiting_tenants()
        if self._running < self._config.max_batch_size:
            tenant = self._shares.first_row_of(waiting)
            if tenant is not None:
                yield tenant, [[]]
            return
        for tenant, yielding in self._shares.claims(waiting):
            offers = (youngest_rows(running, name)[:1] for name in yielding)
            yield tenant, [rows for rows in offers if rows]

    def _rows_for(
        self,
        tenant: TenantId,
        offered: list[EngineSequence],
        running: Sequence[EngineSequence],
        room: KvRoom,
    ) -> list[EngineSequence] | None:
        """Return the rows that yield to a tenant, ``offered`` and those whose blocks it needs as
        well; None if it cannot have enough."""
        claimant = self._next_of(tenant)
        if claimant is None:
            return None
        stay = running
        if offered:
            room = replace(room, free=room.free + sum(map(room.held, offered)))
            stay = [row for row in running if row not in offered]
        more = rows_for_blocks(claimant, stay, room, self._shares.parts())
        if more is None or (more and not self._shares.may_recompute):
            return None
        return offered + more

    def _next_of(self, tenant: TenantId) -> EngineSequence | None:
        """Return the sequence of a tenant that is admitted next."""
        own = (sequence for sequence in self._preempted if sequence.request.tenant == tenant)
        return next(own, None) or self._queue.peek(tenant)

    def _waiting_tenants(self) -> Iterable[TenantId]:
        """Return the tenants with a sequence to be admitted, the one whose turn it is first."""
        preempted = (sequence.request.tenant for sequence in self._preempted)
        tenants = dict.fromkeys((*preempted, *self._queue.in_turn()))
        if self._claimant is None or self._claimant not in tenants:
            return tenants
        return (self._claimant, *tenants)


def admission_of(sequence: EngineSequence) -> int:
    """Return a sequence's position in the order of first admissions."""
    return sequence.admission
