"""Numbers that an engine tells of itself: totals since its start, and those of one moment."""

from dataclasses import dataclass

from cluster.domain.work import StepTotals


@dataclass(slots=True)
class EngineCounters:
    """Totals since the start. Only the engine changes them."""

    prompt_tokens: int = 0  # of requests whose prefill has begun
    generated_tokens: int = 0
    steps: int = 0  # successful ones
    step_tokens: int = 0  # computed in them, prefill and decode
    prefill_tokens: int = 0  # of which prompts, and what is computed again after a preemption
    decode_rows: int = 0  # and newest tokens of sequences that generate
    context_blocks: int = 0  # KV blocks read in them
    adapter_bytes: int = 0  # of the distinct adapters of each of them
    rank_rows: int = 0  # over their rows, ranks of the adapters applied
    step_seconds: float = 0.0  # spent in them
    failed_steps: int = 0
    failed_requests: int = 0  # ended with finish_reason error
    prefix_queried_tokens: int = 0  # prompt tokens looked up in the prefix cache
    prefix_hit_tokens: int = 0  # and found
    routed_prompts: int = 0  # whose router was asked, once for each layer
    rerouted: int = 0  # changes of a running request's adapters
    returned: int = 0  # requests handed back that had begun
    callback_failures: int = 0  # raised by the receiver of chunks
    integrity_failures: int = 0

    def count_step(self, step: StepTotals) -> None:
        """Add a successful step."""
        self.steps += step.steps
        self.step_tokens += step.prefill_tokens + step.decode_rows
        self.prefill_tokens += step.prefill_tokens
        self.decode_rows += step.decode_rows
        self.context_blocks += step.context_blocks
        self.adapter_bytes += step.adapter_bytes
        self.rank_rows += step.rank_rows
        self.step_seconds += step.seconds

    @property
    def step_totals(self) -> StepTotals:
        """All successful steps together."""
        return StepTotals(
            self.steps,
            self.prefill_tokens,
            self.decode_rows,
            self.context_blocks,
            self.adapter_bytes,
            self.rank_rows,
            self.step_seconds,
        )


@dataclass(frozen=True, slots=True)
class EngineStats:
    """One engine's numbers at one moment."""

    running: int  # sequences in the batch
    waiting: int  # sequences not in it
    kv_blocks_total: int
    kv_blocks_free: int  # reclaimable ones included
    preemptions: int
    prefix_age_s: float  # for which the prefix cache keeps blocks; 0: none was reclaimed
    counters: EngineCounters  # a copy

    def as_counters(self) -> tuple[tuple[str, float], ...]:
        """Return the totals by name, for metrics."""
        counters = self.counters
        named = [(name, float(getattr(counters, name))) for name in EngineCounters.__slots__]
        return (*named, ("preemptions", float(self.preemptions)))
