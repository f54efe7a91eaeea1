"""The step loop: requests in, chunks out, one thread.

Life of a request: ``submit`` hands it to the scheduler in the caller's thread, under the lock, so a
refusal is raised to the caller. From then on its chunks come from the step thread only, in order,
all requests of a step in one ``on_chunks`` call; the last chunk has ``finish_reason`` and ``usage``
and comes exactly once, whatever happens: completion, cancellation, deadline, a failed step, stop.
While the last chunk has not come, the engine may still read the request's adapters.

A request may go on with other adapters (``reroute``): the chunk with the first token computed with
them has ``span_start``. From then on ``let_go`` frees those it had before. Should it then lose
its KV to others, it is handed back through ``on_returned`` in place of a last chunk; whoever has
the adapters of all its spans submits it again with the tokens it has.

Only scheduling and book-keeping hold the lock, never the model: submitting never waits for a step.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog

from cluster.clock import Clock
from cluster.domain.ids import RequestId, Slot
from cluster.domain.request import FinishReason, GenerationChunk, GenerationRequest
from cluster.engine.chunks import last_chunk, step_chunk
from cluster.engine.mixing_spec import Mixing
from cluster.engine.request_notes import note_failed, note_preempted
from cluster.engine.sampling.grammar import GrammarCompiler, TokenGrammar, row_error
from cluster.engine.sampling.sampler import check_sampling
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.scheduler import Scheduler
from cluster.engine.sequence import Sequence as EngineSequence
from cluster.engine.spans import Span, span_at
from cluster.engine.stats import EngineCounters, EngineStats
from cluster.engine.step_output import Runner
from cluster.engine.step_plan import ScheduledSequence, StepPlan
from cluster.errors import BraidError, EngineError, IntegrityError, ReplicaLost, RequestError

log = structlog.get_logger(__name__)

OnChunks = Callable[[list[GenerationChunk]], None]
OnReturned = Callable[[RequestId, tuple[int, ...]], None]


class Engine:
    """Continuous batching over one scheduler and one runner."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        pool: BlockPool,
        runner: Runner,
        max_model_len: int,
        eos_token_ids: frozenset[int],
        clock: Clock,
        on_chunks: OnChunks,
        new_seed: Callable[[], int],
        grammars: GrammarCompiler | None = None,
        on_returned: OnReturned | None = None,
    ) -> None:
        """Build an engine that is not running yet; see ``start``.

        Args:
            scheduler: decides each step; nobody else may touch it.
            pool: the scheduler's blocks.
            runner: computes each step.
            max_model_len: longest prompt plus completion, in tokens.
            eos_token_ids: the model's end-of-sequence tokens.
            clock: time of steps and of the heartbeat.
            on_chunks: receives each step's chunks in the step thread; should return at once.
            new_seed: a seed for each request that has none.
            grammars: for requests with a grammar; without it they are refused.
            on_returned: receives a request that is handed back, with all tokens of its completion,
                in the step thread, after its chunks; without it no adapters are let go.
        """
        self.max_model_len = max_model_len
        self.eos_token_ids = eos_token_ids
        self._scheduler = scheduler
        self._pool = pool
        self._runner = runner
        self._clock = clock
        self._on_chunks = on_chunks
        self._new_seed = new_seed
        self._grammars = grammars
        self._on_returned = on_returned
        self._changed = threading.Condition()
        self._seeds: dict[RequestId, int] = {}  # of every live request
        self._unstarted: set[RequestId] = set()  # live, not yet counted as prefilled
        self._ended: list[GenerationChunk] = []  # last chunks that the step thread still delivers
        self._counters = EngineCounters()
        self._cancelled: list[RequestId] = []  # to be ended before the next step
        self._stopping = False
        self._aborting = False
        self._idle = True
        self._heartbeat = clock.monotonic()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the step thread. Raises EngineError if it was started before."""
        if self._thread is not None:
            raise EngineError("the engine was started before")
        self._thread = threading.Thread(target=self._run, name="engine-step", daemon=True)
        self._thread.start()

    def submit(
        self,
        request: GenerationRequest,
        namespace: str,
        adapters: tuple[tuple[Slot, float], ...],
        mixing: Mixing | None = None,
        spans: Sequence[Span] = (),
    ) -> None:
        """Take a request; its chunks come through ``on_chunks``.

        Args:
            request: what to generate.
            namespace: its KV namespace (docs/decisions/0001).
            adapters: (slot in the bank, weight) of its mixture, in mixture order; the slots must
                stay loaded until the last chunk has come. With a gate, in the gate's order.
            mixing: how they are weighed beyond that. What a router decides comes in a chunk of its
                own or with the first token, before any later one.
            spans: what follows the first one: in the prompt from where adapters are activated,
                and in the completion of a request that was re-routed before; every token is
                computed with the adapters of the span it lies in.

        Raises:
            RequestError: no prompt tokens, a request id that is being served already, or a
                grammar that cannot be followed.
            PromptTooLong: no room for prompt and completion.
            Overloaded: the queue is full.
            EngineError: the engine is stopping, a slot is empty, ``mixing`` does not fit, or a
                weight or the sampling parameters have no meaning.
        """
        check_sampling(request.sampling)
        for terms in (adapters, *(span.adapters for span in spans)):
            self._runner.check_adapters(terms)
        if mixing is not None:
            self._runner.check_mixing(len(adapters), mixing)
        sequence = EngineSequence.create(
            request,
            namespace=namespace,
            adapters=adapters,
            stop_token_ids=self.eos_token_ids,
            max_model_len=self.max_model_len,
            whole_prefill=mixing is not None and mixing.is_pending,
            mixing=mixing,
            grammar=self.prepare(request),
            spans=tuple(spans),
        )
        sequence.submitted_at = self._clock.monotonic()
        seed = request.sampling.seed
        with self._changed:
            if self._stopping:
                raise EngineError("the engine is stopping")
            self._scheduler.add(sequence)
            self._seeds[request.request_id] = self._new_seed() if seed is None else seed
            self._unstarted.add(request.request_id)
            self._changed.notify()

    def prepare(self, request: GenerationRequest) -> TokenGrammar | None:
        """Compile a request's grammar, unless it is kept from before; callable from any thread.

        Raises:
            RequestError: it cannot be followed.
        """
        sampling = request.sampling
        if not sampling.grammar:
            return None
        if self._grammars is None:
            raise RequestError("this engine has no tokenizer to follow a grammar with")
        if sampling.ignore_eos or sampling.min_tokens:
            field = "ignore_eos" if sampling.ignore_eos else "min_tokens"
            raise RequestError(f"{field}: not together with a grammar", param=field)
        return self._grammars.start(sampling.grammar, request.resumed_token_ids)

    def cancel(self, request_id: RequestId) -> bool:
        """End a request before the next step, and free its blocks. False when it is not live."""
        with self._changed:
            if request_id not in self._seeds:
                return False
            self._cancelled.append(request_id)
            self._changed.notify()
        return True

    def withdraw(self, request_id: RequestId) -> bool:
        """Take a request back that has not begun: no chunk of it comes, and it reads no adapters.

        False when it has begun, was cancelled, or is not live.
        """
        with self._changed:
            if request_id in self._cancelled or not self._scheduler.withdraw(request_id):
                return False
            self._forget(request_id)
        return True

    def reroute(
        self,
        request_id: RequestId,
        namespace: str,
        adapters: tuple[tuple[Slot, float], ...],
        *,
        after: int,
    ) -> int | None:
        """Let a request go on with other adapters, once ``after`` tokens of its completion are
        there or as soon as may be; keys and values computed before stay. From any thread.

        The slots must stay loaded until the last chunk has come or they are let go. No change of a
        request may be asked for before the one before has begun.

        Returns:
            How many tokens of its completion come before; None when it is not live.

        Raises:
            EngineError: a slot is empty, a weight is not finite, or it cannot be re-routed.
        """
        self._runner.check_adapters(adapters)
        with self._changed:
            return self._scheduler.reroute(request_id, namespace, adapters, after)

    def let_go(self, request_id: RequestId, start: int) -> bool:
        """Whether the engine can do without the adapters of a request before its span at
        ``start``, as its chunk had it; if so, it does from now on. From any thread."""
        with self._changed:
            return self._on_returned is not None and self._scheduler.let_go(request_id, start)

    def stop(self, *, drain: bool, timeout_s: float | None = None) -> bool:
        """Refuse new requests and end the step thread.

        With ``drain`` live requests are completed first; else they end with the error code of a
        lost replica, so that they can go on elsewhere. Returns False when the thread was still busy
        after ``timeout_s``.
        """
        with self._changed:
            self._stopping = True
            self._aborting = self._aborting or not drain or self._thread is None
            self._changed.notify()
        if self._thread is None:
            with self._changed:
                self._obey()
            self._deliver(self._take_ended())
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stats(self) -> EngineStats:
        """Numbers of this moment."""
        with self._changed:
            return EngineStats(
                running=self._scheduler.running,
                waiting=self._scheduler.waiting,
                kv_blocks_total=self._pool.num_blocks,
                kv_blocks_free=self._pool.num_free,
                preemptions=self._scheduler.preemptions,
                counters=dataclasses.replace(self._counters),
            )

    def stalled_for(self) -> float:
        """Seconds since the step thread last showed life; 0 while it has nothing to do.

        Infinite when the thread has ended, or was never started.
        """
        if self._thread is None or not self._thread.is_alive():
            return float("inf")
        return 0.0 if self._idle else self._clock.monotonic() - self._heartbeat

    def check_integrity(self) -> None:
        """Check scheduler, pool and the engine's own books.

        Raises:
            IntegrityError: with both numbers.
        """
        with self._changed:
            self._scheduler.check_integrity()
            live = {sequence.request_id for sequence in self._scheduler.sequences}
            if live != self._seeds.keys():
                raise IntegrityError(f"{len(live)} live sequences, {len(self._seeds)} seeds kept")
            if not self._unstarted <= live:
                raise IntegrityError(
                    f"{len(self._unstarted)} sequences wait for their prefill, {len(live)} live"
                )
            if not live and self._pool.num_free != self._pool.num_blocks:
                raise IntegrityError(
                    f"{self._pool.num_free} blocks are free with no sequence live, "
                    f"expected {self._pool.num_blocks}"
                )

    def _run(self) -> None:
        try:
            self._runner.start()
            while self._await_work():
                self._step()
        except Exception as error:
            self._collapse(error)

    def _await_work(self) -> bool:
        """Block until there is something to do; False when the engine is to end."""
        with self._changed:
            while not (self._seeds or self._ended):
                self._check_when_idle()
                self._runner.rest()
                self._idle = True
                if self._stopping:
                    return False
                self._changed.wait()
            self._idle = False
        self._heartbeat = self._clock.monotonic()
        return True

    def _check_when_idle(self) -> None:
        try:
            self.check_integrity()
        except IntegrityError as error:
            self._counters.integrity_failures += 1
            log.error("engine integrity check failed", error=str(error))

    def _step(self) -> None:
        """One step. Whatever goes wrong ends the requests concerned, never the loop."""
        plan: StepPlan | None = None
        chunks: list[GenerationChunk] = []
        returned: list[EngineSequence] = []
        started = self._clock.monotonic()
        try:
            with self._changed:
                self._obey()
                self._ended += map(self._last_chunk, self._scheduler.expire())
                plan = self._scheduler.schedule()
                returned = self._take_returned()
                if plan is not None:
                    self._count_starts(plan.scheduled, started)
                preempted = self._scheduler.lately_preempted
            note_preempted(preempted)
            self._hand_back(returned)
            if plan is not None:
                chunks = self._compute(plan)
                self._counters.steps += 1
                self._counters.step_tokens += plan.num_tokens
                self._counters.step_seconds += self._clock.monotonic() - started
        except Exception as error:
            self._fail_step(plan, error)
        self._deliver(chunks + self._take_ended())

    def _take_returned(self) -> list[EngineSequence]:
        """Forget what the scheduler does not keep; what was cancelled meanwhile has ended."""
        returned = self._scheduler.take_returned()
        for sequence in returned:
            self._forget(sequence.request_id)
        self._counters.returned += len(returned)
        return returned

    def _hand_back(self, returned: Iterable[EngineSequence]) -> None:
        for sequence in returned:
            assert self._on_returned is not None  # else nothing was let go
            self._on_returned(sequence.request_id, tuple(sequence.generated_token_ids))

    def _obey(self) -> None:
        """End what was cancelled since the last step, and everything when told to stop at once."""
        for request_id in self._cancelled:
            sequence = self._scheduler.cancel(request_id)
            if sequence is not None:
                self._ended.append(self._last_chunk(sequence))
        self._cancelled.clear()
        if self._aborting:
            self._fail(self._scheduler.sequences, ReplicaLost("the replica is stopping"))

    def _compute(self, plan: StepPlan) -> list[GenerationChunk]:
        """Run a plan and turn its tokens into chunks.

        The scheduled sequences are changed by this thread only, so the runner reads them unlocked.
        """
        seeds = {i.sequence.request_id: self._seeds[i.sequence.request_id] for i in plan.scheduled}
        output = self._runner.execute(plan, seeds)
        with self._changed:
            grammars = {i.sequence.request_id: i.sequence.grammar for i in plan.scheduled}
            for request_id, reason in output.failed.items():
                self._fail_one(request_id, row_error(grammars.get(request_id), reason))
            live = [item for item in plan.scheduled if not item.sequence.is_finished]
            for item in live:
                if item.sequence.is_unscored:
                    item.sequence.num_scored = max(item.sequence.num_scored, item.end)
                weights = output.decided.get(item.sequence.request_id)
                if weights is not None:
                    self._counters.routed_prompts += 1
                    self._scheduler.complete(item.sequence, weights)
            begun = self._begin_spans(live)
            before = [item.sequence.num_generated for item in live]
            ended = self._scheduler.commit(plan, output.token_ids)
            chunks = []
            for item, count in zip(live, before, strict=True):
                sequence = item.sequence
                sampled = sequence.num_generated > count
                self._counters.generated_tokens += sampled
                if sequence.is_finished:
                    self._forget(sequence.request_id)
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
        """Spans whose first token was computed in this step: tokens of the completion before."""
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
        self._counters.rerouted += len(begun)
        return begun

    def _last_chunk(
        self, sequence: EngineSequence, error: BraidError | None = None
    ) -> GenerationChunk:
        """Forget a sequence that ended without a token."""
        self._forget(sequence.request_id)
        return last_chunk(sequence, error)

    def _forget(self, request_id: RequestId) -> None:
        del self._seeds[request_id]
        self._unstarted.discard(request_id)

    def _count_starts(self, scheduled: Iterable[ScheduledSequence], now: float) -> None:
        if not self._unstarted:
            return
        for item in scheduled:
            sequence = item.sequence
            if sequence.request_id in self._unstarted:
                self._unstarted.remove(sequence.request_id)
                sequence.queued_s = now - sequence.submitted_at
                self._counters.prompt_tokens += sequence.prompt_len
                self._counters.prefix_queried_tokens += sequence.prompt_len
                self._counters.prefix_hit_tokens += sequence.num_cached

    def _fail_step(self, plan: StepPlan | None, error: Exception) -> None:
        """End the requests of a step that raised, or all of them when there was no plan."""
        self._counters.failed_steps += 1
        fields: dict[str, Any] = {"requests": 0, "tokens": 0}
        with self._changed:
            sequences = self._scheduler.sequences
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
        sequence = self._scheduler.cancel(request_id, FinishReason.ERROR)
        if sequence is not None:
            self._counters.failed_requests += 1
            note_failed(sequence, error)
            self._ended.append(self._last_chunk(sequence, error))

    def _collapse(self, error: Exception) -> None:
        """The loop itself failed: tell every live request and leave the rest to the supervisor."""
        log.critical("engine loop failed", exc_info=error)
        lost = ReplicaLost("the replica failed")
        with self._changed:
            self._stopping = True
            try:
                self._fail(self._scheduler.sequences, lost)
            except Exception:
                log.exception("sequences could not be ended in order", left=len(self._seeds))
                self._ended += [
                    GenerationChunk(
                        request_id=request_id,
                        finish_reason=FinishReason.ERROR,
                        error_code=lost.code,
                        error_message=lost.message,
                    )
                    for request_id in self._seeds
                ]
                self._seeds.clear()
                self._unstarted.clear()
        self._deliver(self._take_ended())

    def _take_ended(self) -> list[GenerationChunk]:
        with self._changed:
            ended, self._ended = self._ended, []
        return ended

    def _deliver(self, chunks: list[GenerationChunk]) -> None:
        if not chunks:
            return
        try:
            self._on_chunks(chunks)
        except Exception:
            self._counters.callback_failures += 1
            log.exception("the receiver of chunks failed", chunks=len(chunks))
