"""The steps of a replica without its scheduler: many at once, by what is in the batch.

The batch is a list of rows with numbers. While no request comes or goes, all steps are alike but
for the context that grows, so they are taken together; a request that comes cuts them at the end of
the step under way, and so does another replica that begins or ends to compute on the same cores.
The order of admission is the real one. While several tenants want a full batch, a run has few
steps, since each may change whose row is whose, and one where blocks are short. The prefix cache
remembers chains of blocks without their places.
"""

import math
from collections.abc import Callable

from cluster.config import EngineConfig
from cluster.domain.ids import RequestId, Slot, TenantId
from cluster.domain.request import FinishReason
from cluster.domain.work import StepTotals
from cluster.engine.sequence import EngineSequence
from cluster.engine.step_totals import AdapterSize
from cluster.placement.cost.model import StepCost
from cluster.simulation.replica.engine_port import (
    STOP_TOKEN,
    EngineWork,
    OnNews,
    SequenceNews,
)
from cluster.simulation.replica.fast_batch import FastBatch
from cluster.simulation.replica.fast_rows import FastRow, StepRun, WorkSums
from cluster.simulation.replica.prefix_memory import PrefixMemory
from cluster.simulation.replica.step_pace import StepPace
from cluster.simulation.virtual.virtual_process import VirtualProcess

_STOPS = frozenset({STOP_TOKEN})
CONTENDED_STEPS = 8
"""Most steps of a run while several tenants want the rows of a full batch."""


class FastEngine:
    """Takes runs of equal steps at once; the arguments are those of ``ExactEngine``."""

    def __init__(
        self,
        config: EngineConfig,
        cost: StepCost,
        pace: StepPace,
        adapter_size: Callable[[Slot], AdapterSize],
        process: VirtualProcess,
        on_news: OnNews,
    ) -> None:
        self._config = config
        self.max_model_len = min(config.max_model_len, config.usual_kv_blocks * config.block_size)
        self._cost = cost
        self._pace = pace
        self._adapter_size = adapter_size
        self._process = process
        self._on_news = on_news
        pace.on_change = self._cut
        self._memory = PrefixMemory(config.usual_kv_blocks, process.clock)
        self._batch = FastBatch(config, self._memory)
        self._cancelled: list[RequestId] = []
        self._next_deadline = math.inf
        self._run: StepRun | None = None
        self._turn = 0  # names the run whose end is awaited
        self._waking = False
        self._done = WorkSums()
        self._generated = 0

    @property
    def running(self) -> int:
        return len(self._batch.running)

    @property
    def waiting(self) -> int:
        return self._batch.waiting

    @property
    def kv_blocks_free(self) -> int:
        return self._memory.free

    @property
    def prefix_age_s(self) -> float:
        return self._memory.age_s

    @property
    def generated_tokens(self) -> int:
        run = self._run
        ended = run.ended_by(self._now) * len(run.decoding) if run is not None else 0
        return self._generated + ended

    @property
    def totals(self) -> StepTotals:
        """Return the work of all steps that have ended."""
        return self._done.totals(self._run, self._now)

    @property
    def _now(self) -> float:
        return self._process.loop.now

    def backlog(self) -> dict[TenantId, int]:
        return self._batch.backlog()

    def generated(self, request_id: RequestId) -> int:
        row = self._batch.rows.get(request_id)
        if row is None:
            return 0
        run = self._run
        ended = run.ended_by(self._now) if run is not None and row in run.decoding else 0
        return row.generated + ended

    def submit(self, work: EngineWork) -> None:
        sequence = EngineSequence.create(
            work.request,
            namespace=work.namespace,
            adapters=(),
            stop_token_ids=_STOPS,
            max_model_len=self.max_model_len,
        )
        sizes = tuple([(slot, *self._adapter_size(slot)) for slot in work.slots])
        names: tuple[str, ...] = ()
        if work.prefix and self._config.prefix_cache:
            whole = work.prefix[: sequence.prompt_len // self._config.block_size]
            names = tuple([f"{work.namespace}{block:x}" for block in whole])
        end = min(sequence.prompt_len + work.generated_tokens, sequence.max_len)
        row = FastRow(sequence, end, names, sizes, sequence.num_tokens)
        row.rank = sum([rank for _, _, rank in sizes])
        self._batch.add(row)
        if row.tokens >= row.end:
            self._next_deadline = -math.inf
        if sequence.request.deadline_at is not None:
            self._next_deadline = min(self._next_deadline, sequence.request.deadline_at)
        if self._batch.has_places or self._batch.is_contended:
            self._cut()

    def withdraw(self, request_id: RequestId) -> bool:
        return self._batch.withdraw(request_id)

    def cancel(self, request_id: RequestId) -> None:
        self._cancelled.append(request_id)
        self._cut()

    def check_integrity(self) -> None:
        """Check the queue's books; raises IntegrityError."""
        self._batch.check_integrity()

    # Runs of steps

    def _cut(self) -> None:
        """Plan again as soon as the step under way has ended; now if there is none."""
        run = self._run
        if run is None:
            if not self._waking:
                self._waking = True
                self._process.after(0.0, self._wake)
            return
        steps = max(1, run.needed_until(self._now))
        if steps < run.steps:
            run.steps = steps
            self._await_end(run)

    def _wake(self) -> None:
        self._waking = False
        if self._run is None:
            self._plan([])

    def _await_end(self, run: StepRun) -> None:
        self._turn += 1
        left = run.began + run.seconds(run.steps) - self._now
        self._process.after(max(0.0, left), self._end_run, self._turn)

    def _end_run(self, turn: int) -> None:
        run = self._run
        if turn != self._turn or run is None:
            return  # cut meanwhile
        self._run = None
        self._done.add(run, run.steps)
        self._batch.observe_run(run)
        self._batch.count_run(run)
        unnamed = self._memory.unnamed
        for row in run.decoding:
            self._grow(row, run.steps)
        if self._memory.unnamed > unnamed:
            self._memory.make_room()  # for what grew before anything ends
        news: list[SequenceNews] = []
        for row in run.decoding:
            self._advance(row, run.steps, run.steps, news)
        for row, count in run.prefills:
            sampled = 1 if count == row.uncomputed else 0
            self._grow(row, count)
            self._advance(row, count, sampled, news)
        self._plan(news)

    def _grow(self, row: FastRow, computed: int) -> None:
        row.computed += computed
        blocks = -(-row.computed // self._config.block_size)
        if blocks > row.blocks:
            self._memory.unnamed += blocks - row.blocks
            row.blocks = blocks

    def _advance(self, row: FastRow, computed: int, sampled: int, news: list[SequenceNews]) -> None:
        sequence, before = row.sequence, row.computed - computed
        first = before < sequence.prompt_len
        before //= self._config.block_size
        row.tokens += sampled
        self._generated += sampled
        if first and before < len(row.names):
            self._batch.publish(row, before)
        if row.tokens >= row.end:
            stopped = row.tokens < sequence.max_len
            self._end(row, FinishReason.STOP if stopped else FinishReason.LENGTH, news)
        elif first and sampled:
            news.append(
                SequenceNews(sequence.request_id, row.generated, row.cached, began_at=row.began_at)
            )

    def _plan(self, news: list[SequenceNews]) -> None:
        self._end_early(news)
        self._batch.yield_rows()
        decoding = self._batch.decodes()
        prefills = self._batch.prefills(decoding)
        for row, _ in prefills:
            row.began_at = row.began_at or self._now
        if decoding or prefills:
            self._start_run(decoding, prefills)
        else:
            self._pace.rest()
        if news:
            self._on_news(news)

    def _start_run(self, decoding: list[FastRow], prefills: list[tuple[FastRow, int]]) -> None:
        size, rows = self._config.block_size, len(decoding)
        steps = 1
        if not prefills:
            steps = min([row.end - row.tokens for row in decoding])
            within = 1 + min([row.blocks * size - row.tokens for row in decoding])
            steps = max(1, min(steps, max(within, size * (self._memory.free // rows))))
            if self._batch.is_contended and self._batch.waiting:
                steps = 1 if self._batch.has_places else min(steps, CONTENDED_STEPS)
        tokens = blocks = ranks = 0
        for row in decoding:
            blocks -= -row.tokens // size
            ranks += row.rank
        for row, count in prefills:
            tokens += count
            blocks -= -(row.computed + count) // size
            ranks += row.rank * count
        first = StepTotals(1, tokens, rows, blocks, self._batch.adapter_bytes, ranks)
        slowness = self._pace.begin()
        run = StepRun(
            self._now,
            steps,
            first,
            rows / size,
            decoding,
            prefills,
            self._cost.seconds(first) * slowness,
            self._cost.per_context_block * slowness,
        )
        left = self._next_deadline - self._process.clock.monotonic()
        if run.seconds(steps) > left:
            run.steps = max(1, run.needed_until(self._now + left))
        self._run = run
        self._await_end(run)

    def _end(self, row: FastRow, reason: FinishReason, news: list[SequenceNews]) -> None:
        completed = reason in (FinishReason.STOP, FinishReason.LENGTH)
        self._batch.remove(row, completed=completed)
        news.append(
            SequenceNews(row.sequence.request_id, row.generated, row.cached, reason, row.began_at)
        )

    def _end_early(self, news: list[SequenceNews]) -> None:
        """End what was cancelled, is past its deadline, or was complete as it came."""
        for request_id in self._cancelled:
            row = self._batch.rows.get(request_id)
            if row is not None:
                self._end(row, FinishReason.CANCELLED, news)
        self._cancelled.clear()
        now = self._process.clock.monotonic()
        if now < self._next_deadline:
            return
        self._next_deadline = math.inf
        for row in tuple(self._batch.rows.values()):
            deadline = row.sequence.request.deadline_at
            if row.tokens >= row.end:
                self._end(row, FinishReason.LENGTH, news)
            elif deadline is not None and deadline <= now:
                self._end(row, FinishReason.DEADLINE, news)
            elif deadline is not None:
                self._next_deadline = min(self._next_deadline, deadline)
