"""Fills the batch of each step: continuous batching on integers alone.

Each step has room for ``max_batch_tokens`` tokens of at most ``max_batch_size`` sequences, given
out in this order:

1. decodes: every running sequence that lacks only its newest token; prefill never makes one wait;
2. prefills under way, oldest admission first, in chunks of what room is left and
   ``scheduling.step_limit`` allows. Tenants share it by weight, those among them that wait for a
   row;
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
"""

import bisect
from collections.abc import Callable, Mapping, Sequence

from cluster.config import EngineConfig
from cluster.domain.ids import TenantId
from cluster.domain.work import StepTotals
from cluster.engine.scheduling.admission_order import AdmissionOrder, admission_of
from cluster.engine.scheduling.batch_integrity import check_batch, check_order
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.prefixes import SharedPrefixes
from cluster.engine.scheduling.prompt_shares import prompt_budget, split_prompts
from cluster.engine.scheduling.row_blocks import RowBlocks
from cluster.engine.scheduling.step_limit import StepLimit
from cluster.engine.sequence import EngineSequence, SequenceStatus
from cluster.engine.steps import ScheduledSequence


class RunningBatch:
    """The sequences that have a row each and the blocks of all their tokens.

    Args:
        pool: nothing else may allocate from it.
        expected_decode: returns the tokens that a sequence will likely generate yet.
    """

    def __init__(
        self,
        config: EngineConfig,
        pool: BlockPool,
        order: AdmissionOrder,
        prefixes: SharedPrefixes,
        expected_decode: Callable[[EngineSequence], int],
    ) -> None:
        self._config = config
        self._pool = pool
        self._order = order
        self._prefixes = prefixes
        self._expected_decode = expected_decode
        self._blocks = RowBlocks(pool)
        self._limit = StepLimit(pool.block_size)
        self._running: list[EngineSequence] = []  # in order of admission
        self._preempted: list[EngineSequence] = []  # by the newest step

    def __len__(self) -> int:
        return len(self._running)

    @property
    def sequences(self) -> Sequence[EngineSequence]:
        """Those in the batch, in order of admission."""
        return self._running

    @property
    def preempted(self) -> Sequence[EngineSequence]:
        """Those that the newest step took out of the batch."""
        return self._preempted

    def fill_step(self) -> list[ScheduledSequence]:
        """Return what the next step computes; rows are taken and given on the way."""
        self._preempted = []
        self._yield_rows()
        scheduled = self._schedule_decodes()
        budget = self._config.max_batch_tokens - len(scheduled)
        return scheduled + self._schedule_prompts(budget, answers=bool(scheduled))

    def observe_step(self, totals: StepTotals) -> None:
        """Learn what a step took, its seconds among it."""
        self._limit.observe(totals)

    def remove(self, sequence: EngineSequence) -> None:
        """Take a sequence that ends out of the batch; its blocks are for ``release_blocks``."""
        self._running.remove(sequence)
        self._order.leave_batch(sequence)

    def release_blocks(self, sequence: EngineSequence) -> None:
        """Take a sequence's blocks back; nothing waits any longer for those it has not computed."""
        for key in self._prefixes.withdraw_blocks(sequence):
            self._order.resume_deferred(key)
        self._blocks.release(sequence)

    def check_integrity(self) -> None:
        """Check the batch's size and order, and its sequences' blocks.

        Raises:
            IntegrityError: with what was expected.
        """
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

    def _schedule_prompts(self, budget: int, *, answers: bool) -> list[ScheduledSequence]:
        """Schedule chunks of prefills: those under way, and those of sequences that are admitted.

        Where tenants share, others than those under way get their part first.

        Args:
            answers: some get their next token by this step.
        """
        under_way = [sequence for sequence in self._running if sequence.is_prefilling]
        if not (under_way or len(self._order)):
            return []
        tenants = {sequence.request.tenant for sequence in under_way}
        budget, kept, weights = prompt_budget(
            self._order, self._limit, self._running, tenants, budget, answers=answers
        )
        scheduled: list[ScheduledSequence] = []
        if kept:
            budget -= kept - self._admit(scheduled, kept, alone=False)
        budget -= self._continue_prefills(scheduled, under_way, weights, budget)
        self._admit(scheduled, budget, alone=not scheduled)
        return scheduled

    def _continue_prefills(
        self,
        scheduled: list[ScheduledSequence],
        under_way: Sequence[EngineSequence],
        weights: Mapping[TenantId, float],
        budget: int,
    ) -> int:
        """Schedule chunks of prefills under way, which have their blocks; returns their tokens."""
        if not any(sequence.whole_prefill for sequence in under_way):
            asked = [(sequence.request.tenant, sequence.num_uncomputed) for sequence in under_way]
            counts = split_prompts(asked, weights, budget)
            pairs = zip(under_way, counts, strict=True)
            scheduled += [self._part_of(sequence, count) for sequence, count in pairs if count]
            return sum(counts)
        used = 0
        for sequence in under_way:
            count = self._chunk(sequence, budget - used, alone=not scheduled)
            if count == 0:
                break
            scheduled.append(self._part_of(sequence, count))
            used += count
        return used

    def _admit(self, prefills: list[ScheduledSequence], budget: int, *, alone: bool) -> int:
        """Move sequences into the batch, and append their parts of the step.

        Args:
            alone: a sequence with more tokens than ``budget`` may be admitted if it is the only
                one.

        Returns:
            The tokens that are left.
        """
        while len(self._running) < self._config.max_batch_size:
            sequence = self._order.next()
            if sequence is None or self._chunk(sequence, budget, alone=alone) == 0:
                return budget
            hits = self._prefixes.find_cached(sequence)
            if sequence.admission < 0:
                awaited = self._prefixes.find_awaited(sequence, len(hits))
                if awaited is not None and self._order.defer(sequence, awaited):
                    continue
            if not self._blocks.take(sequence, hits, self._running):
                return budget
            cost = sequence.num_uncomputed + self._expected_decode(sequence)
            self._order.admit(sequence, cost, sequence.num_computed)
            bisect.insort(self._running, sequence, key=admission_of)
            sequence.status = SequenceStatus.RUNNING
            self._prefixes.announce_blocks(sequence)
            count = self._chunk(sequence, budget, alone=alone)
            alone = False
            prefills.append(self._part_of(sequence, count))
            budget -= count
        return budget

    def _yield_rows(self) -> None:
        """Take rows out of the batch for a tenant that claims some."""
        room = self._blocks.room(self._running)
        for row in self._order.rows_to_yield(self._running, room):
            self._order.yield_row(row, row.num_computed, row.num_published)
            self._preempt(row)

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
        self.release_blocks(sequence)
        sequence.status = SequenceStatus.WAITING
        sequence.num_preemptions += 1
        self._preempted.append(sequence)
        if sequence.is_to_return:
            self._order.leave_batch(sequence)
        else:
            self._order.put_back(sequence)
