"""Plans the next step: continuous batching on integers alone.

Each step has room for ``max_batch_tokens`` tokens of at most ``max_batch_size`` sequences, given
out in this order:

1. decodes: every running sequence that lacks only its newest token; prefill never makes one wait;
2. prefills under way, oldest admission first, in chunks of what room is left;
3. admission, while batch places and blocks last, in the order of ``scheduling.admission_order``:
   tenants that are owed rows, preempted sequences, those that were never admitted. Whose turn it
   is waits for its blocks, and only tenants that are owed rows pass it.

Admission takes the blocks of all tokens known so far, so only decodes need blocks later. When there
are none, a sequence admitted after the one that decodes gives up its blocks and waits before all
that were never admitted: the last of a tenant above its share of them, else the last. Its tokens
are kept and computed again. The same happens to rows before a step if a tenant claims them. Who was
preempted comes back to its place in the order of admission: the oldest
that runs always advances, and each becomes the oldest. So each ends, so its place and blocks come
free, and who waits to be admitted waits no longer than the queue's bounds say.

A sequence whose next block is just being computed for a running one is deferred until that block
is in the prefix cache, while others may pass, at most ``MAX_PASSES`` of them. Who computes it is
in the batch and advances; when it leaves the batch instead, nothing waits for it any longer.

A sequence that was re-routed, or whose prompt invokes an adapter, has spans, each with its own
adapters. When it is preempted it needs the adapters of all its spans again. Where those of
the first ones may have left the bank, it is not kept here but handed back, to be added again with
the tokens it has: as the newest, so that it is preempted again only for those admitted before.
So is one that is recalled, since another request needs the slots of its adapters.

Ownership: from ``add_sequence`` on, a sequence is the scheduler's until ``commit``, ``expire`` or
``cancel`` returns it, ``withdraw`` takes it back or ``take_returned`` hands it back, which happens
exactly once.
"""

import bisect
import math
from collections import Counter
from collections.abc import Mapping

from cluster.clock import Clock
from cluster.config import EngineConfig
from cluster.domain.decision import SiteWeights
from cluster.domain.ids import AdapterDigest, RequestId, Slot, TenantId
from cluster.domain.request import FinishReason
from cluster.engine.scheduling.admission_order import AdmissionOrder, admission_of
from cluster.engine.scheduling.batch_integrity import check_batch, check_order
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.prefixes import SharedPrefixes
from cluster.engine.scheduling.row_blocks import RowBlocks
from cluster.engine.sequence import EngineSequence, SequenceStatus
from cluster.engine.spans import Span
from cluster.engine.steps import ScheduledSequence, StepPlan
from cluster.errors import (
    ConfigError,
    EngineError,
    IntegrityError,
    PromptTooLong,
    RequestError,
)
from cluster.expected_length import ExpectedLength


class Scheduler:
    """Decides which tokens of which sequences the next step computes.

    One step at a time: ``schedule``, compute, ``commit``. Sequences may be added and cancelled at
    any moment between. A plan that is not committed (the step failed) is void once the next one is
    made, and its tokens are scheduled again. Not thread-safe.

    A step is larger than ``max_batch_tokens`` only for a sequence with ``whole_prefill`` whose
    prompt does not fit next to the decodes; it is then the only prefill of that step.
    """

    def __init__(self, config: EngineConfig, pool: BlockPool, clock: Clock) -> None:
        """Build an empty scheduler over ``pool``, which nothing else may allocate from.

        Raises:
            ConfigError: ``max_batch_tokens`` has no room for a full batch of decodes.
        """
        if config.max_batch_tokens < config.max_batch_size:
            raise ConfigError(
                f"engine.max_batch_tokens is {config.max_batch_tokens}, expected at least "
                f"engine.max_batch_size ({config.max_batch_size}): each decode takes one token"
            )
        self._config = config
        self._pool = pool
        self._clock = clock
        self._blocks = RowBlocks(pool)
        self._prefixes = SharedPrefixes(pool, enabled=config.prefix_cache)
        self._order = AdmissionOrder(config)
        self._expected = ExpectedLength()
        self._returned: list[EngineSequence] = []  # without a row, and not to be kept here
        self._running: list[EngineSequence] = []  # in order of admission
        self._by_id: dict[RequestId, EngineSequence] = {}
        self._next_deadline = math.inf  # no live sequence has an earlier one
        self._plans = 0
        self._open_plan: StepPlan | None = None  # the one that commit takes
        self._preemptions = 0
        self._newly_preempted: list[EngineSequence] = []  # by the newest plan

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus completion that the configuration and the pool allow, in tokens."""
        return min(self._config.max_model_len, self._pool.num_blocks * self._pool.block_size)

    @property
    def waiting(self) -> int:
        """Sequences not in the batch, preempted ones included."""
        return len(self._order)

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._running)

    @property
    def preemptions(self) -> int:
        """Preemptions since the start."""
        return self._preemptions

    @property
    def sequences(self) -> tuple[EngineSequence, ...]:
        """All sequences not yet ended: those admitted before in that order, then the others."""
        return (*self._running, *self._order)

    def backlog(self) -> dict[TenantId, int]:
        """Return the tokens of prompts that are still to be computed, by tenant; none has 0.

        What the prefix cache has of a sequence that was preempted is not; of one that was never
        admitted that is not known yet.
        """
        tokens: Counter[TenantId] = Counter()
        for sequence in self.sequences:
            left = sequence.prompt_len - sequence.num_computed
            if sequence.status is SequenceStatus.WAITING and sequence.admission >= 0:
                left -= len(self._prefixes.find_cached(sequence)) * self._pool.block_size
            if left > 0:
                tokens[sequence.request.tenant] += left
        return dict(tokens)

    def add_sequence(self, sequence: EngineSequence) -> None:
        """Queue a sequence. One whose resumed tokens already complete it ends at ``expire``.

        Raises:
            RequestError: a live sequence has the same request id.
            PromptTooLong: alone, at its full length, it would not fit the pool.
            Overloaded: ``max_queued`` sequences wait already, besides those the batch has room for;
                and, where tenants take turns, its share of them are this tenant's.
        """
        if sequence.request_id in self._by_id:
            raise RequestError(
                f"request id {sequence.request_id} is already being served", param="request_id"
            )
        # The last token's keys and values are never needed.
        needed = self._pool.blocks_for(max(sequence.max_len - 1, sequence.num_tokens))
        if needed > self._pool.num_blocks:
            raise PromptTooLong(
                f"prompt and completion may need {needed} KV blocks of {self._pool.block_size} "
                f"tokens; the replica has {self._pool.num_blocks}",
                param="prompt",
            )
        self._order.append(sequence)
        self._by_id[sequence.request_id] = sequence
        if sequence.request.deadline_at is not None:
            self._next_deadline = min(self._next_deadline, sequence.request.deadline_at)
        if sequence.end_by_tokens is not None:
            self._next_deadline = -math.inf

    def cancel(
        self, request_id: RequestId, reason: FinishReason = FinishReason.CANCELLED
    ) -> EngineSequence | None:
        """End a sequence now, wherever it is, and free its blocks; None if it is not live."""
        sequence = self._by_id.get(request_id)
        if sequence is not None:
            self._end(sequence, reason)
        return sequence

    def withdraw(self, request_id: RequestId) -> bool:
        """Take back a sequence that was never admitted, as if it had not come; else False."""
        sequence = self._by_id.get(request_id)
        if sequence is None or sequence.admission >= 0:
            return False
        del self._by_id[request_id]
        self._order.remove(sequence)
        return True

    def recall(self, request_id: RequestId) -> None:
        """Hand a sequence that was admitted back when it has no row, now or later, unless it ends
        before; call it before ``schedule``, and ``take_returned`` after that."""
        sequence = self._by_id.get(request_id)
        if sequence is None or sequence.admission < 0:
            return
        sequence.is_recalled = True
        if sequence.status is SequenceStatus.WAITING and sequence.is_to_return:
            del self._by_id[request_id]
            self._order.remove(sequence)
            self._returned.append(sequence)

    def reroute(
        self,
        request_id: RequestId,
        namespace: str,
        adapters: tuple[tuple[Slot, float], ...],
        after: int,
    ) -> int | None:
        """Continue a sequence with other adapters once ``after`` tokens of its completion are
        there; what has been or is being computed stays as it is.

        Returns:
            How many tokens of its completion come before; None if it is not live.

        Raises:
            EngineError: it waits for another change already, or its adapters are weighed within
                the model.
        """
        sequence = self._by_id.get(request_id)
        return None if sequence is None else sequence.reroute(namespace, adapters, after)

    def release_before(self, request_id: RequestId, start: int) -> bool:
        """Release the adapters of the spans before the one at ``start``, in completion tokens.

        Returns False, releasing nothing, while they are needed to compute what is missing.
        """
        sequence = self._by_id.get(request_id)
        return sequence is None or sequence.release_before(start)

    @property
    def newly_preempted(self) -> tuple[EngineSequence, ...]:
        """Sequences that the newest plan took out of the batch."""
        return tuple(self._newly_preempted)

    def take_returned(self) -> list[EngineSequence]:
        """Take the sequences without a row that are not kept: they cannot be computed again as they
        are, or were recalled."""
        returned, self._returned = self._returned, []
        return returned

    def expire(self) -> list[EngineSequence]:
        """End what is past its deadline or complete as it came; call it before ``schedule``.

        ``commit`` does the same, so a loop that never idles needs no call of its own.
        """
        now = self._clock.monotonic()
        if now < self._next_deadline:
            return []
        ended = []
        self._next_deadline = math.inf
        for sequence in self.sequences:
            deadline = sequence.request.deadline_at
            reason = sequence.end_by_tokens
            if reason is None and deadline is not None and deadline <= now:
                reason = FinishReason.DEADLINE
            if reason is not None:
                self._end(sequence, reason)
                ended.append(sequence)
            elif deadline is not None:
                self._next_deadline = min(self._next_deadline, deadline)
        return ended

    def schedule(self) -> StepPlan | None:
        """Decide the next step; None exactly when no sequence is live.

        Depends on the order of arrival, on sizes, and on who shares a queue or a prefix with whom;
        not on time or ids.
        """
        self._newly_preempted.clear()
        self._yield_rows()
        scheduled = self._schedule_decodes()
        budget = self._config.max_batch_tokens - len(scheduled)
        prefills = self._schedule_prefills(budget)
        budget -= sum(item.count for item in prefills)
        self._admit(prefills, budget)
        scheduled += prefills
        if not scheduled:
            return None
        self._plans += 1
        self._open_plan = StepPlan(self._plans, tuple(scheduled))
        return self._open_plan

    def commit(self, plan: StepPlan, sampled: Mapping[RequestId, int]) -> list[EngineSequence]:
        """Account for a computed step: publish full blocks, append tokens, end what is complete.

        Sequences that ended since the plan was made are ignored, and so are their tokens.

        Args:
            plan: the newest plan, not committed before.
            sampled: the token of each scheduled sequence with ``samples``.

        Returns:
            The sequences that ended now, their blocks freed. A stop token counts before the
            length, and both before the deadline; the step's token is kept in all cases.

        Raises:
            IntegrityError: another plan was made since, or this one was committed before.
            EngineError: a sampled token is missing; nothing was changed.
        """
        if plan is not self._open_plan:
            raise IntegrityError(f"plan {plan.step} of {self._plans} committed, it is not open")
        live = [item for item in plan.scheduled if not item.sequence.is_finished]
        missing = [
            item.sequence.request_id
            for item in live
            if item.samples and item.sequence.request_id not in sampled
        ]
        if missing:
            raise EngineError(f"step {plan.step} sampled no token for {', '.join(missing)}")
        self._open_plan = None
        self._order.count_step((item.sequence, item.start, item.end) for item in live)
        ended = []
        for item in live:
            sequence = item.sequence
            if sequence.num_computed != item.start:
                raise IntegrityError(
                    f"{sequence.request_id} has {sequence.num_computed} tokens computed, "
                    f"the plan starts at {item.start}"
                )
            sequence.num_computed = item.end
            for key in self._prefixes.publish_blocks(sequence):
                self._order.resume_deferred(key)
            if item.samples and sequence.end_by_tokens is None:
                sequence.token_ids.append(sampled[sequence.request_id])
            reason = sequence.end_by_tokens
            if reason is not None:
                self._end(sequence, reason)
                ended.append(sequence)
        return ended + self.expire()

    def complete_routing(self, sequence: EngineSequence, weights: SiteWeights) -> None:
        """Take a router's answer for a sequence, which from now on is like others.

        Call it before the ``commit`` of the step that computed the prompt. What it publishes is
        named by what was decided, so that the same prompt with the same answer finds it.
        """
        mixing = sequence.mixing
        assert mixing is not None
        for key in self._prefixes.withdraw_blocks(sequence):
            self._order.resume_deferred(key)
        sequence.whole_prefill = False
        sequence.mixing = mixing.completed(weights)
        if mixing.complete is not None:
            completed = Span(0, mixing.complete(weights), sequence.adapters)
            sequence.spans = (completed,)
            sequence.block_keys.clear()

    def check_integrity(self) -> None:
        """Check the pool against the block tables, and the queues against each other.

        Raises:
            IntegrityError: with both numbers.
        """
        live = self.sequences
        self._pool.check_integrity(sequence.block_table for sequence in live)
        self._order.check_integrity(self._running)
        self._prefixes.check_integrity(self._running)
        if {sequence.request_id: sequence for sequence in live} != self._by_id:
            raise IntegrityError(f"{len(live)} sequences in queues, {len(self._by_id)} known by id")
        check_batch(self._running, self._config.max_batch_size, self._pool)
        check_order(self._running)

    def _schedule_decodes(self) -> list[ScheduledSequence]:
        """Schedule one token for each running sequence that lacks only its newest one."""
        scheduled = []
        for sequence in tuple(self._running):
            if sequence.status is not SequenceStatus.RUNNING or sequence.is_prefilling:
                continue
            if self._make_room(sequence):
                scheduled.append(self._part_of(sequence, 1))
        return scheduled

    def _make_room(self, sequence: EngineSequence) -> bool:
        """Give a decode the block of its newest token; False if it was itself preempted.

        Those preempted were admitted after ``sequence``, so none is in the step yet.
        """
        while not self._blocks.grow(sequence):
            room = self._blocks.room(self._running)
            victim = self._order.row_to_preempt(sequence, self._running, room)
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _schedule_prefills(self, budget: int) -> list[ScheduledSequence]:
        """Schedule chunks of the prefills under way; they have their blocks already."""
        scheduled: list[ScheduledSequence] = []
        for sequence in self._running:
            if sequence.is_prefilling:
                count = self._chunk(sequence, budget, alone=not scheduled)
                if count == 0:
                    break
                scheduled.append(self._part_of(sequence, count))
                budget -= count
        return scheduled

    def _admit(self, prefills: list[ScheduledSequence], budget: int) -> None:
        """Move sequences into the batch, and append their parts of the step."""
        while len(self._running) < self._config.max_batch_size:
            sequence = self._order.next()
            if sequence is None or self._chunk(sequence, budget, alone=not prefills) == 0:
                return
            hits = self._prefixes.find_cached(sequence)
            if sequence.admission < 0:
                awaited = self._prefixes.find_awaited(sequence, len(hits))
                if awaited is not None and self._order.defer(sequence, awaited):
                    continue
            if not self._blocks.take(sequence, hits, self._running):
                return
            self._order.admit(sequence, self._cost(sequence), sequence.num_computed)
            bisect.insort(self._running, sequence, key=admission_of)
            sequence.status = SequenceStatus.RUNNING
            self._prefixes.announce_blocks(sequence)
            count = self._chunk(sequence, budget, alone=not prefills)
            prefills.append(self._part_of(sequence, count))
            budget -= count

    def _yield_rows(self) -> None:
        """Take rows out of the batch for a tenant that claims some."""
        room = self._blocks.room(self._running)
        for row in self._order.rows_to_yield(self._running, room):
            self._order.yield_row(row, row.num_computed, row.num_published)
            self._preempt(row)

    def _cost(self, sequence: EngineSequence) -> int:
        """Return the tokens to compute for a sequence that has its blocks: prefill and expected
        decode."""
        room = sequence.max_len - sequence.num_tokens
        return sequence.num_uncomputed + self._expected.expect(_kind(sequence), room)

    @staticmethod
    def _chunk(sequence: EngineSequence, budget: int, *, alone: bool) -> int:
        """Return the tokens of a prefill to compute now, given room for ``budget``; 0 when it must
        wait.

        ``alone`` tells that no other prefill is in the step.
        """
        prompt_left = sequence.prompt_len - sequence.num_computed
        if sequence.whole_prefill and prompt_left > budget:
            return prompt_left if alone else 0
        return max(0, min(sequence.num_uncomputed, budget))

    def _part_of(self, sequence: EngineSequence, count: int) -> ScheduledSequence:
        start = sequence.num_computed
        return ScheduledSequence(sequence, start, count, start + count == sequence.num_tokens)

    def _preempt(self, sequence: EngineSequence) -> None:
        self._running.remove(sequence)
        self._release(sequence)
        sequence.status = SequenceStatus.WAITING
        sequence.num_preemptions += 1
        self._preemptions += 1
        self._newly_preempted.append(sequence)
        if not sequence.is_to_return:
            self._order.put_back(sequence)
        else:
            del self._by_id[sequence.request_id]
            self._order.leave_batch(sequence)
            self._returned.append(sequence)

    def _end(self, sequence: EngineSequence, reason: FinishReason) -> None:
        if sequence.status is SequenceStatus.RUNNING:
            self._running.remove(sequence)
            self._order.leave_batch(sequence)
        else:
            self._order.remove(sequence)
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            room = sequence.max_len - sequence.prompt_len
            self._expected.observe(_kind(sequence), sequence.num_generated, room)
        del self._by_id[sequence.request_id]
        self._release(sequence)
        sequence.status = SequenceStatus.FINISHED
        sequence.finish_reason = reason

    def _release(self, sequence: EngineSequence) -> None:
        """Take a sequence's blocks back; nothing waits any longer for those it has not computed."""
        for key in self._prefixes.withdraw_blocks(sequence):
            self._order.resume_deferred(key)
        self._blocks.release(sequence)


def _kind(sequence: EngineSequence) -> tuple[TenantId, tuple[AdapterDigest, ...]]:
    """Return a key of requests that probably get answers of similar length."""
    return sequence.request.tenant, sequence.request.digests
