"""The step loop of the torch engine: one thread that schedules, computes and delivers.

It alone runs the model and calls back: all chunks of a step in one ``on_chunks`` call, then nothing
until the next step. It takes the lock of `EngineRequests` to schedule and to commit, and runs the
model without it: the sequences of a plan are changed by this thread only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from cluster.clock import Clock
from cluster.domain.ids import RequestId
from cluster.domain.request import FinishReason, GenerationChunk
from cluster.engine.engine_counters import EngineCounters
from cluster.engine.engine_requests import EngineRequests
from cluster.engine.execution.device_loss import is_device_lost
from cluster.engine.port import OnChunks, OnReturned
from cluster.engine.request_notes import note_failed, note_preempted
from cluster.engine.sampling.grammar import row_error
from cluster.engine.sequence import EngineSequence
from cluster.engine.spans import span_at
from cluster.engine.step_totals import step_totals
from cluster.engine.steps import Runner, ScheduledSequence, StepPlan, last_chunk, step_chunk
from cluster.errors import BraidError, EngineError, IntegrityError, ReplicaLost

log = structlog.get_logger(__name__)


class StepLoop:
    """Continuous batching over one scheduler and one runner.

    Args:
        live: shared with the threads that submit.
        runner: computes each step.
        clock: time of steps and of the heartbeat.
        on_chunks: receives each step's chunks.
        on_returned: receives a request that is handed back, after its chunks.
    """

    def __init__(
        self,
        live: EngineRequests,
        runner: Runner,
        clock: Clock,
        on_chunks: OnChunks,
        on_returned: OnReturned | None,
    ) -> None:
        self._live = live
        self._runner = runner
        self._clock = clock
        self._on_chunks = on_chunks
        self._on_returned = on_returned
        self._ended: list[GenerationChunk] = []  # last chunks that are still to be delivered
        self.counters = EngineCounters()
        self._idle = True
        self._heartbeat = clock.monotonic()

    def stalled_for(self) -> float:
        """Return the seconds since the loop last began a step; 0 while it has nothing to do."""
        return 0.0 if self._idle else self._clock.monotonic() - self._heartbeat

    def end_unstarted(self) -> None:
        """End the requests of an engine whose loop never ran, in the calling thread."""
        with self._live.changed:
            self._end_cancelled()
        self._deliver(self._take_ended())

    def run(self) -> None:
        """Run steps until the engine stops, in the calling thread."""
        try:
            self._runner.start()
            while self._await_work():
                self.step()
        except Exception as error:
            self._collapse(error)

    def _await_work(self) -> bool:
        """Block until there is something to do. Returns False if the engine is to end."""
        with self._live.changed:
            while not (self._live.seeds or self._ended or self._live.lost):
                self._check_when_idle()
                self._runner.rest()
                self._idle = True
                if self._live.stopping:
                    return False
                self._live.changed.wait()
            self._idle = False
            if self._live.lost is not None:
                raise self._live.lost
        self._heartbeat = self._clock.monotonic()
        return True

    def _check_when_idle(self) -> None:
        try:
            self._live.check_integrity()
        except IntegrityError as error:
            self.counters.integrity_failures += 1
            log.error("engine integrity check failed", error=str(error))

    def step(self) -> None:
        """Compute one step. A failure ends the requests concerned, never the loop.

        Raises:
            RuntimeError: the device is lost to this process; every later step would fail.
        """
        plan: StepPlan | None = None
        chunks: list[GenerationChunk] = []
        returned: list[EngineSequence] = []
        started = self._clock.monotonic()
        try:
            with self._live.changed:
                self._end_cancelled()
                self._recall()
                self._ended += map(self._last_chunk, self._live.scheduler.expire())
                plan = self._live.scheduler.schedule()
                returned = self._take_returned()
                if plan is not None:
                    self._count_starts(plan.scheduled, started)
                preempted = self._live.scheduler.newly_preempted
            note_preempted(preempted)
            self._hand_back(returned)
            if plan is not None:
                # Before their last chunks: afterwards the slots may hold other adapters.
                totals = step_totals(plan, self._live.pool.block_size, self._runner.adapter_size)
                chunks = self._compute(plan)
                seconds = self._clock.monotonic() - started
                totals = replace(totals, seconds=seconds)
                self.counters.count_step(totals)
                self._live.scheduler.observe_step(totals)
        except Exception as error:
            if is_device_lost(error):
                raise
            self._fail_step(plan, error)
        self._deliver(chunks + self._take_ended())

    def _recall(self) -> None:
        """Let those be handed back that were asked for since the last step and have no row."""
        for request_id in self._live.recalled:
            self._live.scheduler.recall(request_id)
        self._live.recalled.clear()

    def _take_returned(self) -> list[EngineSequence]:
        """Take what the scheduler does not keep; what was cancelled meanwhile has ended."""
        returned = self._live.scheduler.take_returned()
        for sequence in returned:
            self._live.forget(sequence.request_id)
        self.counters.returned += len(returned)
        return returned

    def _hand_back(self, returned: Iterable[EngineSequence]) -> None:
        for sequence in returned:
            assert self._on_returned is not None  # else nothing was released or recalled
            tokens = tuple(sequence.generated_token_ids)
            self._on_returned(sequence.request_id, tokens, sequence.usage)

    def _end_cancelled(self) -> None:
        """End what was cancelled since the last step, or everything if the engine stops at once."""
        for request_id in self._live.cancelled:
            sequence = self._live.scheduler.cancel(request_id)
            if sequence is not None:
                self._ended.append(self._last_chunk(sequence))
        self._live.cancelled.clear()
        if self._live.aborting:
            self._fail(self._live.scheduler.sequences, ReplicaLost("the replica is stopping"))

    def _compute(self, plan: StepPlan) -> list[GenerationChunk]:
        """Run a plan and turn its tokens into chunks.

        The scheduled sequences are changed by this thread only, so the runner reads them unlocked.
        """
        seeds = {
            i.sequence.request_id: self._live.seeds[i.sequence.request_id] for i in plan.scheduled
        }
        output = self._runner.execute(plan, seeds)
        with self._live.changed:
            grammars = {i.sequence.request_id: i.sequence.grammar for i in plan.scheduled}
            for request_id, reason in output.failed.items():
                self._fail_one(request_id, row_error(grammars.get(request_id), reason))
            live = [item for item in plan.scheduled if not item.sequence.is_finished]
            for item in live:
                if item.sequence.is_unscored:
                    item.sequence.num_scored = max(item.sequence.num_scored, item.end)
                weights = output.decided.get(item.sequence.request_id)
                if weights is not None:
                    self.counters.routed_prompts += 1
                    self._live.scheduler.complete_routing(item.sequence, weights)
            begun = self._begin_spans(live)
            before = [item.sequence.num_generated for item in live]
            ended = self._live.scheduler.commit(plan, output.token_ids)
            chunks = []
            for item, count in zip(live, before, strict=True):
                sequence = item.sequence
                sampled = sequence.num_generated > count
                self.counters.generated_tokens += sampled
                if sequence.is_finished:
                    self._live.forget(sequence.request_id)
                start = begun.get(sequence.request_id)
                chunk = step_chunk(sequence, output, sampled=sampled, span_start=start)
                if chunk is not None:
                    chunks.append(chunk)
            scheduled = {item.sequence.request_id for item in live}
            chunks += [
                self._last_chunk(sequence)
                for sequence in ended
                if sequence.request_id not in scheduled
            ]
            return chunks

    def _begin_spans(self, live: Iterable[ScheduledSequence]) -> dict[RequestId, int]:
        """Return the start, in completion tokens, of each span that this step has begun."""
        begun = {}
        for item in live:
            sequence = item.sequence
            if len(sequence.spans) == 1:
                continue
            span = span_at(sequence.spans, item.end - 1)
            if span >= sequence.num_begun:
                sequence.num_begun = span + 1
                start = sequence.spans[span].start
                begun[sequence.request_id] = start - sequence.prompt_len
        self.counters.rerouted += len(begun)
        return begun

    def _last_chunk(
        self, sequence: EngineSequence, error: BraidError | None = None
    ) -> GenerationChunk:
        """Forget a sequence that ended without a token, and return its last chunk."""
        self._live.forget(sequence.request_id)
        return last_chunk(sequence, error)

    def _count_starts(self, scheduled: Iterable[ScheduledSequence], now: float) -> None:
        if not self._live.unstarted:
            return
        for item in scheduled:
            sequence = item.sequence
            if sequence.request_id in self._live.unstarted:
                self._live.unstarted.remove(sequence.request_id)
                sequence.queued_s = now - sequence.submitted_at
                self.counters.prompt_tokens += sequence.prompt_len
                self.counters.prefix_queried_tokens += sequence.prompt_len
                self.counters.prefix_hit_tokens += sequence.num_cached

    def _fail_step(self, plan: StepPlan | None, error: Exception) -> None:
        """End the requests of a step that raised, or all of them when there was no plan."""
        self.counters.failed_steps += 1
        fields: dict[str, Any] = {"requests": 0, "tokens": 0}
        with self._live.changed:
            sequences = self._live.scheduler.sequences
            if plan is not None:
                sequences = tuple(item.sequence for item in plan.scheduled)
                fields = {"requests": len(sequences), "tokens": plan.num_tokens}
            log.error("engine step failed", exc_info=error, **fields)
            known = error if isinstance(error, EngineError) else None
            self._fail(
                sequences, known or EngineError(f"the engine step failed: {type(error).__name__}")
            )

    def _fail(self, sequences: Sequence[EngineSequence], error: BraidError) -> None:
        for sequence in sequences:
            self._fail_one(sequence.request_id, error)

    def _fail_one(self, request_id: RequestId, error: BraidError) -> None:
        sequence = self._live.scheduler.cancel(request_id, FinishReason.ERROR)
        if sequence is not None:
            self.counters.failed_requests += 1
            note_failed(sequence, error)
            self._ended.append(self._last_chunk(sequence, error))

    def _collapse(self, error: Exception) -> None:
        """End every live request after the loop itself failed; the supervisor does the rest."""
        log.critical("engine loop failed", exc_info=error)
        lost = ReplicaLost("the replica failed")
        with self._live.changed:
            self._live.stopping = True
            try:
                self._fail(self._live.scheduler.sequences, lost)
            except Exception:
                log.exception("sequences could not be ended in order", left=len(self._live.seeds))
                self._ended += [
                    GenerationChunk(
                        request_id=request_id,
                        finish_reason=FinishReason.ERROR,
                        error_code=lost.code,
                        error_message=lost.message,
                    )
                    for request_id in self._live.seeds
                ]
                self._live.seeds.clear()
                self._live.unstarted.clear()
        self._deliver(self._take_ended())

    def _take_ended(self) -> list[GenerationChunk]:
        with self._live.changed:
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
