"""Queues the sequences that wait for their first admission, and decides whose turn it is.

A replica is shared by tenants, and a tenant's adapters by its applications. What they want:

- a tenant's wait does not grow with what others have queued, and no share grows by sending
  more requests, longer ones, or under more adapters. So tenants take turns, and their shares are
  counted in tokens to compute, in proportion to their weights;
- a tenant's batch job over one adapter does not hold up its chat over another. So within a
  tenant's turn its adapter sets take turns in the same way. Weights are left out: routed prompts
  nearly all have weights of their own, and the same adapters are the same application;
- requests of one tenant with the same adapters are served in order of arrival, strictly.

Tenants, and within each tenant its adapter sets, are flows of ``tenancy.turns``. Let C be
the largest cost of a sequence (at most the context window). While a sequence waits behind S tokens
of its own queue (0 once it is the first), admitted before it are

- of each other queue of its tenant: at most S + 2 C tokens;
- of each other tenant of equal weight: at most 2 C tokens more than of its own.

While two tenants both wait, the tokens admitted of each, divided by its weight, differ by at most
2 C over the smaller weight. A tenant's weight is the one that its newest sequence came with.

The bounds leave out what is taken out of turn, for a tenant that lacks rows
(``scheduling.row_shares``): its next turn comes later by as much.

Newcomers never pass the one whose turn it is, so a large sequence that waits for blocks gets them.

``defer`` sets a queue aside until an event. From the first time that a sequence is deferred until
the last time that it is resumed, at most ``max_passes`` sequences of others are admitted; the
bounds count from then on. A deferred queue keeps its turn but makes nothing up.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from cluster.domain.ids import AdapterDigest, RequestId, TenantId
from cluster.engine.sequence import EngineSequence
from cluster.errors import IntegrityError
from cluster.tenancy.turns import Flow, Turns


@dataclass(slots=True, eq=False)
class _Tenant(Flow):
    """One tenant's queues."""

    key: TenantId = field(kw_only=True)
    queues: dict[tuple[AdapterDigest, ...], _Queue] = field(default_factory=dict)
    turns: Turns[_Queue] = field(default_factory=Turns)  # of those queues that are not deferred


@dataclass(slots=True, eq=False)
class _Queue(Flow):
    """Sequences of one tenant with the same adapters, in order of arrival."""

    key: tuple[AdapterDigest, ...] = field(kw_only=True)
    tenant: _Tenant = field(kw_only=True)
    sequences: OrderedDict[RequestId, EngineSequence] = field(default_factory=OrderedDict)
    deferred_until: str | None = None  # the event that releases it

    @property
    def head(self) -> EngineSequence:
        return next(iter(self.sequences.values()))


class FairQueue:
    """Queues waiting sequences by tenant and adapter set, as the module describes.

    Everything but looking at all sequences costs a few comparisons.

    Args:
        fair: false makes one queue of everything, in order of arrival.
        max_passes: admissions after which a sequence is deferred no longer.
    """

    def __init__(self, *, fair: bool, max_passes: int) -> None:
        self._fair = fair
        self._max_passes = max_passes
        self._tenants: dict[TenantId, _Tenant] = {}
        self._turns = Turns[_Tenant]()  # of the tenants with a queue that is not deferred
        self._ends: dict[TenantId, int] = {}  # of tenants that left ahead of the clock
        self._deferred: dict[str, list[_Queue]] = {}  # by event
        self._limits: list[
            tuple[int, int, _Queue]
        ] = []  # of deferred ones: (limit, arrival, queue)
        self._admissions = 0
        self._size = 0
        self._alone: EngineSequence | None = None  # where one waits, it takes part in no turns

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[EngineSequence]:
        """Return all sequences, queue by queue, each queue in order of arrival."""
        self._line_up()
        for tenant in self._tenants.values():
            for queue in tenant.queues.values():
                yield from queue.sequences.values()

    @property
    def deferred(self) -> int:
        """Queues set aside."""
        return len(self._limits)

    def in_turn(self) -> Iterator[TenantId]:
        """Return the tenants with a queue that is not deferred, the one whose turn it is first."""
        self._line_up()
        return (tenant.key for tenant in self._turns)

    def append(self, sequence: EngineSequence) -> None:
        """Queue a sequence behind those of its tenant with the same adapters."""
        if not self._size:
            self._alone = sequence
        else:
            self._line_up()
            self._append(sequence)
        self._size += 1

    def _append(self, sequence: EngineSequence) -> None:
        tenant_key = self._tenant_key(sequence.request.tenant)
        tenant = self._tenants.get(tenant_key)
        if tenant is None:
            start = self._ends.pop(tenant_key, 0)
            tenant = self._tenants[tenant_key] = _Tenant(key=tenant_key, start=start)
        if self._fair:
            tenant.weight = sequence.request.weight
        adapters = sequence.request.digests if self._fair else ()
        queue = tenant.queues.get(adapters)
        if queue is None:
            queue = tenant.queues[adapters] = _Queue(key=adapters, tenant=tenant)
            tenant.turns.enter(queue)
            if len(tenant.turns) == 1:
                self._turns.enter(tenant)
        queue.sequences[sequence.request_id] = sequence

    def peek(self, tenant: TenantId | None = None) -> EngineSequence | None:
        """Return the sequence whose turn it is, or None if nothing waits or all that waits is
        deferred.

        The answer stays the same until that sequence is popped, deferred or removed.

        Args:
            tenant: the next one of this tenant in its place.
        """
        if self._alone is not None:
            return self._alone if self._is_asked(self._alone, tenant) else None
        queue = self._first(tenant)
        return None if queue is None else queue.head

    def pop(self, cost: int, tenant: TenantId | None = None) -> EngineSequence:
        """Take the sequence that ``peek`` gives, which is admitted at ``cost`` tokens (>= 1).

        Raises:
            IntegrityError: there is none.
        """
        alone = self._alone
        if alone is not None and self._is_asked(alone, tenant):
            end = self._ends.pop(self._tenant_key(alone.request.tenant), 0)
            self._turns.serve_alone(end, cost, alone.request.weight if self._fair else 1.0)
            self._alone = None
            self._size -= 1
            self._admissions += 1
            return alone
        queue = self._first(tenant)
        if queue is None:
            raise IntegrityError(f"0 sequences to take, {self._size} wait")
        sequence = queue.head
        self._turns.charge(queue.tenant, cost)
        queue.tenant.turns.charge(queue, cost)
        self._take(queue, sequence)
        self._admissions += 1
        while self._limits and self._limits[0][0] <= self._admissions:
            self._resume(self._limits[0][2])
        return sequence

    def remove(self, sequence: EngineSequence) -> None:
        """Take a sequence out, wherever it is, at no cost to its tenant."""
        self._line_up()
        tenant = self._tenants[self._tenant_key(sequence.request.tenant)]
        queue = tenant.queues[sequence.request.digests if self._fair else ()]
        if queue.deferred_until is not None and queue.head is sequence:
            self._resume(queue)
        self._take(queue, sequence)

    def defer(self, event: str, tenant: TenantId | None = None) -> bool:
        """Set the queue of the sequence that ``peek`` gives aside until ``resume_deferred(event)``.

        False, and nothing is changed, when enough others have passed it already.
        """
        self._line_up()
        queue = self._first(tenant)
        if queue is None:
            raise IntegrityError(f"0 sequences to defer, {self._size} wait")
        sequence = queue.head
        if sequence.defer_limit is None:
            sequence.defer_limit = self._admissions + self._max_passes
        if sequence.defer_limit <= self._admissions:
            return False
        self._leave(queue)
        queue.deferred_until = event
        self._deferred.setdefault(event, []).append(queue)
        bisect.insort(self._limits, self._limit(queue))
        return True

    def resume_deferred(self, event: str) -> None:
        """Let the queues take part again that were deferred until ``event``."""
        for queue in tuple(self._deferred.get(event, ())):
            self._resume(queue)

    def check_integrity(self) -> None:
        """Check that counts, turns and what is deferred agree.

        Raises:
            IntegrityError: with both numbers.
        """
        self._line_up()
        self._turns.check_integrity()
        listed = sum(1 for _ in self)
        if listed != self._size:
            raise IntegrityError(f"{listed} sequences in queues, {self._size} counted")
        deferred = 0
        for tenant in self._tenants.values():
            tenant.turns.check_integrity()
            queues = tenant.queues.values()
            if min(len(queue.sequences) for queue in queues) == 0:
                raise IntegrityError(f"{tenant.key} has {len(queues)} queues, one with 0 sequences")
            aside = sum(1 for queue in queues if queue.deferred_until is not None)
            turns = sum(1 for queue in queues if queue.turn >= 0)
            if not turns == len(tenant.turns) == len(queues) - aside:
                raise IntegrityError(
                    f"{turns} queues of {tenant.key} take turns, expected {len(queues) - aside}"
                )
            if (tenant.turn >= 0) != (turns > 0):
                raise IntegrityError(f"{tenant.key} has turn {tenant.turn} with {turns} queues")
            deferred += aside
        by_event = sum(len(queues) for queues in self._deferred.values())
        if not deferred == by_event == len(self._limits):
            raise IntegrityError(
                f"{deferred} queues are deferred, {by_event} by event, {len(self._limits)} by limit"
            )

    def _is_asked(self, alone: EngineSequence, tenant: TenantId | None) -> bool:
        return tenant is None or self._tenant_key(tenant) == self._tenant_key(alone.request.tenant)

    def _line_up(self) -> None:
        """Let the sequence that has waited alone take part in turns."""
        if self._alone is not None:
            self._append(self._alone)
            self._alone = None

    def _tenant_key(self, tenant: TenantId) -> TenantId:
        return tenant if self._fair else TenantId("")

    def _first(self, tenant: TenantId | None) -> _Queue | None:
        asked = self._turns.first
        if tenant is not None:
            asked = self._tenants.get(self._tenant_key(tenant))
        return None if asked is None else asked.turns.first

    def _take(self, queue: _Queue, sequence: EngineSequence) -> None:
        tenant = queue.tenant
        del queue.sequences[sequence.request_id]
        self._size -= 1
        if not queue.sequences:
            self._leave(queue)
            del tenant.queues[queue.key]
            if not tenant.queues:
                del self._tenants[tenant.key]
                self._note_end(tenant)

    def _note_end(self, tenant: _Tenant) -> None:
        """Remember where the work of a tenant that leaves ends, until the clock is there."""
        clock = self._turns.clock
        self._ends = {key: end for key, end in self._ends.items() if end > clock}
        if tenant.start > clock:
            self._ends[tenant.key] = tenant.start

    def _leave(self, queue: _Queue) -> None:
        queue.tenant.turns.leave(queue)
        if not len(queue.tenant.turns):
            self._turns.leave(queue.tenant)

    def _resume(self, queue: _Queue) -> None:
        """Let a deferred queue take part again."""
        assert queue.deferred_until is not None
        del self._limits[bisect.bisect_left(self._limits, self._limit(queue))]
        queues = self._deferred[queue.deferred_until]
        queues.remove(queue)
        if not queues:
            del self._deferred[queue.deferred_until]
        queue.deferred_until = None
        queue.tenant.turns.resume(queue)
        if queue.tenant.turn < 0:
            self._turns.resume(queue.tenant)

    @staticmethod
    def _limit(queue: _Queue) -> tuple[int, int, _Queue]:
        limit = queue.head.defer_limit
        assert limit is not None
        return limit, queue.head.arrival, queue
