"""Fills the fast engine's batch: admission in the real order, blocks, preemption."""

import bisect
from collections import Counter
from collections.abc import Iterable

from cluster.config import EngineConfig
from cluster.domain.ids import RequestId, TenantId
from cluster.domain.work import StepTotals
from cluster.engine.scheduling.admission_order import AdmissionOrder
from cluster.engine.scheduling.block_claims import KvRoom
from cluster.engine.scheduling.prompt_shares import prompt_budget, split_prompts
from cluster.engine.scheduling.step_limit import StepLimit
from cluster.engine.sequence import EngineSequence
from cluster.expected_length import ExpectedLength
from cluster.simulation.replica.fast_rows import FastRow, StepRun
from cluster.simulation.replica.prefix_memory import PrefixMemory


class FastBatch:
    """The rows that run, those that wait, and the blocks that they hold."""

    def __init__(self, config: EngineConfig, memory: PrefixMemory) -> None:
        self.rows: dict[RequestId, FastRow] = {}  # all that have not ended
        self.running: list[FastRow] = []  # in order of admission
        self.adapter_bytes = 0  # of the distinct adapters of those that run
        self._config = config
        self._memory = memory
        self._order = AdmissionOrder(config)
        self._limit = StepLimit(config.block_size)
        self._expected = ExpectedLength()
        self._slots: Counter[int] = Counter()  # rows that run over each slot

    @property
    def waiting(self) -> int:
        """Return the rows that do not run."""
        return len(self.rows) - len(self.running)

    @property
    def has_places(self) -> bool:
        """Report whether another row may run."""
        return len(self.running) < self._config.max_batch_size

    @property
    def is_contended(self) -> bool:
        """Report whether several tenants have rows here."""
        return self._order.is_contended

    def add(self, row: FastRow) -> None:
        """Queue a row.

        Raises:
            Overloaded: as ``Scheduler.add_sequence``.
        """
        self._order.append(row.sequence)
        self.rows[row.sequence.request_id] = row

    def withdraw(self, request_id: RequestId) -> bool:
        """Take a row back that was never admitted; else False."""
        row = self.rows.get(request_id)
        if row is None or row.sequence.admission >= 0:
            return False
        del self.rows[request_id]
        self._order.remove(row.sequence)
        return True

    def remove(self, row: FastRow, *, completed: bool) -> None:
        """Drop a row that has ended; one that is complete teaches what to expect of its kind."""
        if row in self.running:
            self._leave(row)
            self._order.leave_batch(row.sequence)
        else:
            self._order.remove(row.sequence)
        del self.rows[row.sequence.request_id]
        if completed:
            room = row.sequence.max_len - row.sequence.prompt_len
            self._expected.observe(_kind(row.sequence), row.generated, room)

    def backlog(self) -> dict[TenantId, int]:
        """Return the tokens of prompts still to be computed, as ``Scheduler.backlog``."""
        tokens: dict[TenantId, int] = {}
        for row in self.rows.values():
            left = row.sequence.prompt_len - row.computed
            if left <= 0:
                continue
            if row.sequence.admission >= 0 and not row.blocks:  # preempted
                left -= sum(self._cached(row)) * self._config.block_size
            if left > 0:
                tenant = row.sequence.request.tenant
                tokens[tenant] = tokens.get(tenant, 0) + left
        return tokens

    def publish(self, row: FastRow, before: int) -> None:
        """Make the blocks findable that a row has computed since it had ``before`` of them."""
        names = row.names[before : row.computed // self._config.block_size]
        self._resume(self._memory.publish(names))

    def check_integrity(self) -> None:
        """Check the books of admission; raises IntegrityError."""
        self._order.check_integrity(row.sequence for row in self.running)

    def count_run(self, run: StepRun) -> None:
        """Count the tokens of a run for their tenants, before its rows advance."""
        steps = run.steps
        computed = [(row.sequence, row.computed, row.computed + steps) for row in run.decoding]
        computed += [(row.sequence, row.computed, row.computed + n) for row, n in run.prefills]
        self._order.count_step(computed)

    def yield_rows(self) -> None:
        """Take rows out of the batch for a tenant that claims some."""
        if not self._order.begin_step():
            return
        running = [row.sequence for row in self.running]
        for sequence in self._order.rows_to_yield(running, self._room()):
            row = self.rows[sequence.request_id]
            self._order.yield_row(sequence, row.computed, row.computed // self._config.block_size)
            self._preempt(row)

    def decodes(self) -> list[FastRow]:
        """Return the rows that lack only their newest token, each with a block for it."""
        memory, size = self._memory, self._config.block_size
        while True:
            decoding = [row for row in self.running if row.tokens - row.computed == 1]
            short = [row for row in decoding if row.tokens > row.blocks * size]
            if len(short) <= memory.free or len(self.running) < 2:
                break
            self._preempt(self._row_to_preempt(short[max(0, memory.free)]))
        if short:
            for row in short:
                row.blocks += 1
            memory.unnamed += len(short)
            memory.make_room()
        return decoding

    def prefills(self, decoding: list[FastRow]) -> list[tuple[FastRow, int]]:
        """Return the rows whose prompts a step computes, each with the tokens of it.

        Shares and bounds are those of ``RunningBatch``.
        """
        waiting = self.waiting
        under_way = [row for row in self.running if row.tokens - row.computed > 1]
        if not (under_way or waiting):
            return []
        tenants = {row.sequence.request.tenant for row in under_way}
        running = [row.sequence for row in self.running]
        room = self._config.max_batch_tokens - len(decoding)
        budget, kept, weights = prompt_budget(
            self._order, self._limit, running, tenants, room, answers=bool(decoding)
        )
        prefills: list[tuple[FastRow, int]] = []
        if under_way:
            if kept:
                budget -= kept - self._admit(prefills, kept)
            asked = [(row.sequence.request.tenant, row.uncomputed) for row in under_way]
            counts = split_prompts(asked, weights, budget)
            prefills += [pair for pair in zip(under_way, counts, strict=True) if pair[1]]
            budget -= sum(counts)
        if waiting:
            self._admit(prefills, budget)
        return prefills

    def observe_run(self, run: StepRun) -> None:
        """Learn what steps take, as ``Scheduler.observe_step``."""
        steps, first = run.steps, run.first
        tokens, rows = first.prefill_tokens * steps, first.decode_rows * steps
        seconds = run.seconds(steps)
        self._limit.observe(StepTotals(steps, tokens, rows, seconds=seconds))

    def _admit(self, prefills: list[tuple[FastRow, int]], budget: int) -> int:
        """Let rows run while there is room, append their parts of the step, and return what is left
        of the budget."""
        memory, size = self._memory, self._config.block_size
        while len(self.running) < self._config.max_batch_size and budget > 0:
            sequence = self._order.next()
            if sequence is None:
                return budget
            row, again = self.rows[sequence.request_id], sequence.admission >= 0
            hits, own = self._cached(row)
            if not again:
                awaited = memory.find_awaited(row.names[hits : (row.tokens - 1) // size])
                if awaited is not None and self._order.defer(sequence, awaited):
                    continue
            if not self._take_blocks(row, hits, own):
                return budget
            if not again:
                row.cached = min(row.computed, sequence.prompt_len)
            room = sequence.max_len - row.tokens
            expected = self._expected.expect(_kind(sequence), room)
            self._order.admit(sequence, row.uncomputed + expected, row.computed)
            bisect.insort(self.running, row, key=_admission)
            memory.announce(sequence.request_id, row.names[hits:])
            self._count_adapters(row, 1)
            count = min(row.uncomputed, budget)
            prefills.append((row, count))
            budget -= count
        return budget

    def _cached(self, row: FastRow) -> tuple[int, int]:
        """Return the blocks of a waiting row that are there: with names, and those after them
        that it computed before it was preempted."""
        matchable = (row.tokens - 1) // self._config.block_size
        hits, own = self._memory.find(row.names[:matchable]), 0
        if row.sequence.admission >= 0 and hits == len(row.names):
            found = self._memory.idle_of(row.sequence.request_id)
            own = min(found, matchable - hits)
        return hits, own

    def _take_blocks(self, row: FastRow, hits: int, own: int) -> bool:
        memory, size = self._memory, self._config.block_size
        blocks = -(-row.tokens // size)
        if memory.free < memory.new_blocks(row.names, blocks) + self._reserve(row):
            return False
        memory.hold(row.names)
        if own:
            memory.reuse(row.sequence.request_id, own)
        memory.unnamed += blocks - len(row.names)
        memory.make_room()
        row.blocks = blocks
        row.computed = (hits + own) * size
        return True

    def _room(self) -> KvRoom:
        size, rows = self._config.block_size, self.rows
        return KvRoom(
            total=self._config.usual_kv_blocks,
            free=self._memory.free,
            needed=lambda sequence: -(-rows[sequence.request_id].tokens // size),
            reserve=lambda sequence: self._reserve(rows[sequence.request_id]),
            held=lambda sequence: rows[sequence.request_id].blocks,
        )

    def _row_to_preempt(self, decode: FastRow) -> FastRow:
        running = [row.sequence for row in self.running]
        victim = self._order.row_to_preempt(decode.sequence, running, self._room())
        return self.rows[victim.request_id]

    def _reserve(self, row: FastRow) -> int:
        """Return the blocks to be left when a row enters the batch."""
        if not self.running:
            return 0
        size = self._config.block_size
        own = -(-(row.sequence.max_len - 1) // size) > -(-row.tokens // size)
        return own + sum([other.may_grow(size) for other in self.running])

    def _leave(self, row: FastRow) -> None:
        self.running.remove(row)
        size = self._config.block_size
        full, request_id = row.computed // size, row.sequence.request_id
        self._resume(self._memory.withdraw(request_id, row.names[full:]))
        cached = full - len(row.names) if self._config.prefix_cache else 0
        self._memory.release(request_id, row.names, cached)
        self._memory.unnamed -= row.blocks - len(row.names)
        self._count_adapters(row, -1)
        row.blocks = row.computed = 0

    def _preempt(self, row: FastRow) -> None:
        self._leave(row)
        row.sequence.num_preemptions += 1
        self._order.put_back(row.sequence)

    def _resume(self, names: Iterable[str]) -> None:
        for name in names:
            self._order.resume_deferred(name)

    def _count_adapters(self, row: FastRow, change: int) -> None:
        for slot, nbytes, _ in row.sizes:
            before = self._slots[slot]
            self._slots[slot] = before + change
            if before == 0:
                self.adapter_bytes += nbytes
            elif before + change == 0:
                self.adapter_bytes -= nbytes


def _admission(row: FastRow) -> int:
    return row.sequence.admission


def _kind(sequence: EngineSequence) -> tuple[TenantId, tuple[str, ...]]:
    return sequence.request.tenant, sequence.request.digests
