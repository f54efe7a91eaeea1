"""Plans the next step and keeps account of every sequence until it ends.

A sequence that was re-routed, or whose prompt invokes an adapter, has spans, each with its own
adapters. When it is preempted it needs the adapters of all its spans again. Where those of
the first ones may have left the bank, it is not kept here but handed back, to be added again with
the tokens it has: as the newest, so that it is preempted again only for those admitted before.
So is one that is recalled, since another request needs the slots of its adapters.

Ownership: from ``add_sequence`` on, a sequence is the scheduler's until ``commit``, ``expire`` or
``cancel`` returns it, ``withdraw`` takes it back or ``take_returned`` hands it back, which happens
exactly once.
"""

import math
from collections import Counter
from collections.abc import Mapping

from cluster.clock import Clock
from cluster.config import EngineConfig
from cluster.domain.decision import SiteWeights
from cluster.domain.ids import AdapterDigest, RequestId, Slot, TenantId
from cluster.domain.request import FinishReason
from cluster.domain.work import StepTotals
from cluster.engine.scheduling.admission_order import AdmissionOrder
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.prefixes import SharedPrefixes
from cluster.engine.scheduling.running_batch import RunningBatch
from cluster.engine.sequence import EngineSequence, SequenceStatus
from cluster.engine.spans import Span
from cluster.engine.steps import StepPlan
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
        self._prefixes = SharedPrefixes(pool, enabled=config.prefix_cache)
        self._order = AdmissionOrder(config)
        self._expected = ExpectedLength()
        self._batch = RunningBatch(config, pool, self._order, self._prefixes, self._expected_decode)
        self._returned: list[EngineSequence] = []  # without a row, and not to be kept here
        self._by_id: dict[RequestId, EngineSequence] = {}
        self._next_deadline = math.inf  # no live sequence has an earlier one
        self._plans = 0
        self._open_plan: StepPlan | None = None  # the one that commit takes
        self._preemptions = 0

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
        return len(self._batch)

    @property
    def preemptions(self) -> int:
        """Preemptions since the start."""
        return self._preemptions

    @property
    def sequences(self) -> tuple[EngineSequence, ...]:
        """All sequences not yet ended: those admitted before in that order, then the others."""
        return (*self._batch.sequences, *self._order)

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
        return tuple(self._batch.preempted)

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

        Depends on the order of arrival, on sizes, on who shares a queue or a prefix with whom, and
        on the seconds that were observed; not on time or ids.
        """
        scheduled = self._batch.fill_step()
        for sequence in self._batch.preempted:
            self._preemptions += 1
            if sequence.is_to_return:
                del self._by_id[sequence.request_id]
                self._returned.append(sequence)
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

    def observe_step(self, totals: StepTotals) -> None:
        """Learn from a step what prompts cost those that generate; ``totals`` has its seconds."""
        self._batch.observe_step(totals)

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
        self._order.check_integrity(self._batch.sequences)
        self._prefixes.check_integrity(self._batch.sequences)
        if {sequence.request_id: sequence for sequence in live} != self._by_id:
            raise IntegrityError(f"{len(live)} sequences in queues, {len(self._by_id)} known by id")
        self._batch.check_integrity()

    def _end(self, sequence: EngineSequence, reason: FinishReason) -> None:
        if sequence.status is SequenceStatus.RUNNING:
            self._batch.remove(sequence)
        else:
            self._order.remove(sequence)
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            room = sequence.max_len - sequence.prompt_len
            self._expected.observe(_kind(sequence), sequence.num_generated, room)
        del self._by_id[sequence.request_id]
        self._batch.release_blocks(sequence)
        sequence.status = SequenceStatus.FINISHED
        sequence.finish_reason = reason

    def _expected_decode(self, sequence: EngineSequence) -> int:
        room = sequence.max_len - sequence.num_tokens
        return self._expected.expect(_kind(sequence), room)


def _kind(sequence: EngineSequence) -> tuple[TenantId, tuple[AdapterDigest, ...]]:
    """Return a key of requests that probably get answers of similar length."""
    return sequence.request.tenant, sequence.request.digests
