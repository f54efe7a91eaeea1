"""Accounts for what a host has computed: tokens to their sequences, work to the totals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cluster.domain.ids import Slot
from cluster.domain.request import FinishReason, GenerationChunk
from cluster.engine.engine_counters import EngineCounters
from cluster.engine.hosted.host_requests import token_logprobs
from cluster.engine.hosted.hosted_requests import HostedRequests, HostedSequence
from cluster.engine.hosted.messages import HostTokens, StepDone
from cluster.engine.request_notes import note_failed
from cluster.engine.sequence import EngineSequence
from cluster.engine.step_totals import AdapterSize, step_totals
from cluster.engine.steps import ScheduledSequence, StepPlan, last_chunk
from cluster.errors import BraidError, EngineError, GrammarTooComplex


class StepAccount:
    """Applies a host's steps to the books of requests, under their lock.

    Args:
        requests: the books.
        counters: totals to add to.
        adapter_size: bytes and rank of a slot's adapter.
        block_size: tokens of a KV block.
    """

    def __init__(
        self,
        requests: HostedRequests,
        counters: EngineCounters,
        adapter_size: Callable[[Slot], AdapterSize],
        block_size: int,
    ) -> None:
        self._requests = requests
        self._counters = counters
        self._adapter_size = adapter_size
        self._block_size = block_size
        self._steps = 0

    def commit(self, step: StepDone, now: float) -> tuple[list[GenerationChunk], list[int]]:
        """Account for a step.

        Sequences that have ended here since it began are ignored.

        Args:
            step: what the host tells.
            now: monotonic, seconds.

        Returns:
            Its chunks, and the numbers of sequences that ended here while the host continues them.
        """
        self._count(step, now)
        chunks, to_abort = [], []
        for told in step.tokens:
            request = self._requests.sent.get(told.id)
            if request is None:
                continue
            chunk = self._chunk(request, told)
            chunks.append(chunk)
            if chunk.finish_reason is not None and not told.finish:
                to_abort.append(told.id)
        return chunks, to_abort

    def _count(self, step: StepDone, now: float) -> None:
        """Count the rows of a step, before any of its sequences ends and gives its slots back."""
        scheduled = []
        for number, start, count in step.computed:
            request = self._requests.sent.get(number)
            if request is not None:
                sequence = request.sequence
                if sequence.queued_s is None:
                    self._begin(sequence, start, now)
                samples = start + count >= sequence.num_tokens
                scheduled.append(ScheduledSequence(sequence, start, count, samples))
        if not scheduled:
            return
        self._steps += 1
        plan = StepPlan(self._steps, tuple(scheduled))
        totals = step_totals(plan, self._block_size, self._adapter_size)
        self._counters.count_step(replace(totals, seconds=step.seconds))
        self._requests.order.count_step((row.sequence, row.start, row.end) for row in scheduled)
        for row in scheduled:
            row.sequence.num_computed = row.end

    def _begin(self, sequence: EngineSequence, cached: int, now: float) -> None:
        """Note the first step of a sequence.

        Args:
            cached: tokens of it that were found in the prefix cache.
            now: monotonic, seconds.
        """
        sequence.queued_s = now - sequence.submitted_at
        sequence.num_cached = min(cached, sequence.prompt_len)
        self._counters.prompt_tokens += sequence.prompt_len
        self._counters.prefix_queried_tokens += sequence.prompt_len
        self._counters.prefix_hit_tokens += sequence.num_cached

    def _chunk(self, request: HostedSequence, told: HostTokens) -> GenerationChunk:
        """Take what a step brought for a sequence, which may end with it."""
        sequence = request.sequence
        if told.finish == "error":
            return self._fail(request, _error_of(sequence, told.problem))
        if told.prompt_logprobs:
            sequence.num_scored = sequence.prompt_len - 1
        before = sequence.num_generated
        for token in told.token_ids:
            if sequence.end_by_tokens is not None:
                break
            sequence.token_ids.append(token)
        count = sequence.num_generated - before
        self._counters.generated_tokens += count
        reason = sequence.end_by_tokens
        if reason is None and told.finish:
            reason = FinishReason(told.finish)
        if reason is not None:
            self._requests.end(request, reason)
        return GenerationChunk(
            request_id=sequence.request_id,
            token_ids=tuple(told.token_ids[:count]),
            logprobs=token_logprobs(told.logprobs[:count]),
            finish_reason=reason,
            usage=None if reason is None else sequence.usage,
            prompt_logprobs=token_logprobs(told.prompt_logprobs),
        )

    def _fail(self, request: HostedSequence, error: BraidError) -> GenerationChunk:
        self._requests.end(request, FinishReason.ERROR)
        self._counters.failed_requests += 1
        note_failed(request.sequence, error)
        return last_chunk(request.sequence, error)


def _error_of(sequence: EngineSequence, problem: str) -> BraidError:
    """Return the error of a sequence that the host has given up."""
    if sequence.request.sampling.grammar:
        reason = problem or "the host gives no reason"
        return GrammarTooComplex(f"the grammar cannot be followed any further: {reason}")
    return EngineError(f"vLLM cannot continue it: {problem or 'it gives no reason'}")
