"""Fills the fast engine's batch: admission in the real queue's order, blocks, preemption."""

from collections import Counter, deque
from collections.abc import Iterable

from cluster.config import EngineConfig
from cluster.domain.ids import RequestId, TenantId
from cluster.engine.scheduling.fair_queue import FairQueue
from cluster.engine.scheduling.queue_limit import refuse_if_full
from cluster.engine.scheduling.scheduler import MAX_PASSES
from cluster.engine.sequence import EngineSequence
from cluster.expected_length import ExpectedLength
from cluster.simulation.replica.fast_rows import FastRow
from cluster.simulation.replica.prefix_memory import PrefixMemory


class FastBatch:
    """The rows that run, those that wait, and the blocks that they hold."""

    def __init__(self, config: EngineConfig, memory: PrefixMemory) -> None:
        self.rows: dict[RequestId, FastRow] = {}  # all that have not ended
        self.running: list[FastRow] = []  # in order of admission
        self.adapter_bytes = 0  # of the distinct adapters of those that run
        self._config = config
        self._memory = memory
        self._queue = FairQueue(fair=config.fairness == "adapter", max_passes=MAX_PASSES)
        self._preempted: deque[FastRow] = deque()
        self._expected = ExpectedLength()
        self._slots: Counter[int] = Counter()  # rows that run over each slot
        self._arrivals = 0

    @property
    def waiting(self) -> int:
        """Return the rows that do not run."""
        return len(self._preempted) + len(self._queue)

    @property
    def has_places(self) -> bool:
        """Report whether another row may run."""
        return len(self.running) < self._config.max_batch_size

    def add(self, row: FastRow) -> None:
        """Queue a row.

        Raises:
            Overloaded: as ``Scheduler.add_sequence``.
        """
        sequence = row.sequence
        waiting = [preempted.sequence for preempted in self._preempted]
        tenant = sequence.request.tenant
        refuse_if_full(tenant, self._config, self._queue, waiting, len(self.running))
        sequence.arrival = self._arrivals
        self._arrivals += 1
        self.rows[sequence.request_id] = row
        self._queue.append(sequence)

    def withdraw(self, request_id: RequestId) -> bool:
        """Take a row back that was never admitted; else False."""
        row = self.rows.get(request_id)
        if row is None or row.was_admitted:
            return False
        del self.rows[request_id]
        self._queue.remove(row.sequence)
        return True

    def remove(self, row: FastRow, *, completed: bool) -> None:
        """Drop a row that has ended; one that is complete teaches what to expect of its kind."""
        if row in self.running:
            self._leave(row)
        elif row.was_admitted:
            self._preempted.remove(row)
        else:
            self._queue.remove(row.sequence)
        del self.rows[row.sequence.request_id]
        if completed:
            room = row.sequence.max_len - row.sequence.prompt_len
            self._expected.observe(_kind(row.sequence), row.generated, room)

    def publish(self, row: FastRow, before: int) -> None:
        """Make the blocks findable that a row has computed since it had ``before`` of them."""
        names = row.names[before : row.computed // self._config.block_size]
        self._resume(self._memory.publish(names))

    def check_integrity(self) -> None:
        """Check the queue's books; raises IntegrityError."""
        self._queue.check_integrity()

    def decodes(self) -> list[FastRow]:
        """Return the rows that lack only their newest token, each with a block for it."""
        memory, size = self._memory, self._config.block_size
        while True:
            decoding = [row for row in self.running if row.uncomputed == 1]
            short = [row for row in decoding if -(-row.tokens // size) > row.blocks]
            if len(short) <= memory.free or len(self.running) < 2:
                break
            self._preempt(self.running[-1])
        for row in short:
            row.blocks += 1
        memory.unnamed += len(short)
        memory.make_room()
        return decoding

    def admit(self, prefills: list[tuple[FastRow, int]], budget: int) -> None:
        """Let rows run while there is room, and append their parts of the step."""
        memory, size = self._memory, self._config.block_size
        while len(self.running) < self._config.max_batch_size and budget > 0:
            again = bool(self._preempted)
            head = None if again else self._queue.peek()
            if not again and head is None:
                return
            row = self._preempted[0] if head is None else self.rows[head.request_id]
            matchable = min(len(row.names), (row.tokens - 1) // size)
            hits = memory.find(row.names[:matchable])
            own = 0
            if again and hits == len(row.names):  # computed before it was preempted
                found = memory.idle_of(row.sequence.request_id)
                own = min(found, (row.tokens - 1) // size - hits)
            if not again:
                awaited = memory.find_awaited(row.names[hits:matchable])
                if awaited is not None and self._queue.defer(awaited):
                    continue
            if not self._take_blocks(row, hits, own):
                return
            if again:
                self._preempted.popleft()
            else:
                room = row.sequence.max_len - row.tokens
                expected = self._expected.expect(_kind(row.sequence), room)
                self._queue.pop(row.uncomputed + expected)
                row.cached = min(row.computed, row.sequence.prompt_len)
                row.was_admitted = True
            self.running.append(row)
            memory.announce(row.sequence.request_id, row.names[hits:])
            self._count_adapters(row, 1)
            count = min(row.uncomputed, budget)
            prefills.append((row, count))
            budget -= count

    def _take_blocks(self, row: FastRow, hits: int, own: int) -> bool:
        memory, size = self._memory, self._config.block_size
        blocks = -(-row.tokens // size)
        reserve = 0
        if self.running:
            reserve = sum(other.may_grow(size) for other in self.running)
            reserve += -(-(row.sequence.max_len - 1) // size) > blocks
        if memory.free < memory.new_blocks(row.names, blocks) + reserve:
            return False
        memory.hold(row.names)
        if own:
            memory.reuse(row.sequence.request_id, own)
        memory.unnamed += blocks - len(row.names)
        memory.make_room()
        row.blocks = blocks
        row.computed = (hits + own) * size
        return True

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
        self._preempted.appendleft(row)

    def _resume(self, names: Iterable[str]) -> None:
        for name in names:
            self._queue.resume_deferred(name)

    def _count_adapters(self, row: FastRow, change: int) -> None:
        for slot, nbytes, _ in row.sizes:
            before = self._slots[slot]
            self._slots[slot] = before + change
            if before == 0:
                self.adapter_bytes += nbytes
            elif before + change == 0:
                self.adapter_bytes -= nbytes


def _kind(sequence: EngineSequence) -> tuple[TenantId, tuple[str, ...]]:
    return sequence.request.tenant, sequence.request.digests
