"""What the engine counts."""

from dataclasses import dataclass


@dataclass(slots=True)
class EngineCounters:
    """Since the start. Changed by the step thread only."""

    prompt_tokens: int = 0  # of requests whose prefill has begun
    generated_tokens: int = 0
    steps: int = 0  # successful ones
    step_tokens: int = 0  # computed in them, prefill and decode
    step_seconds: float = 0.0  # spent in them
    failed_steps: int = 0
    failed_requests: int = 0  # ended with finish_reason error
    prefix_queried_tokens: int = 0  # prompt tokens looked up in the prefix cache
    prefix_hit_tokens: int = 0  # and found
    routed_prompts: int = 0  # whose router was asked, once for each layer
    rerouted: int = 0  # changes of a running request's adapters
    returned: int = 0  # re-routed requests handed back when they were preempted
    callback_failures: int = 0  # raised by the receiver of chunks
    integrity_failures: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A consistent picture of one engine."""

    running: int  # sequences in the batch
    waiting: int  # sequences not in it
    kv_blocks_total: int
    kv_blocks_free: int  # reclaimable ones included
    preemptions: int
    counters: EngineCounters  # a copy

    def as_counters(self) -> tuple[tuple[str, float], ...]:
        """Cumulative numbers by name, for metrics."""
        counters = self.counters
        named = [(name, float(getattr(counters, name))) for name in EngineCounters.__slots__]
        return (*named, ("preemptions", float(self.preemptions)))
