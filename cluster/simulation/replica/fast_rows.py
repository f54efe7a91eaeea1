"""The batch of the fast engine, as numbers: its rows, and what a run of equal steps costs."""

import math
from dataclasses import dataclass, replace

from cluster.domain.work import StepTotals
from cluster.engine.sequence import EngineSequence
from cluster.simulation.replica.prefix_memory import BlockName


@dataclass(slots=True, eq=False)
class FastRow:
    """One sequence, without its tokens and blocks: only how many there are."""

    sequence: EngineSequence
    end: int  # tokens, of its prompt and completion, at which it ends
    names: tuple[BlockName, ...]  # of its prompt's whole blocks
    sizes: tuple[tuple[int, int, int], ...]  # (slot, bytes, rank) of its adapters
    tokens: int  # prompt and completion so far
    rank: int = 0  # of its adapters together
    computed: int = 0
    blocks: int = 0  # that it holds
    cached: int = 0  # tokens found in the prefix cache at its first admission
    began_at: float | None = None  # virtual seconds, of its first step

    @property
    def generated(self) -> int:
        """Return the tokens of its completion."""
        return self.tokens - self.sequence.prompt_len

    @property
    def uncomputed(self) -> int:
        """Return the tokens still to be computed."""
        return self.tokens - self.computed

    def may_grow(self, block_size: int) -> bool:
        """Report whether it may need more blocks than it has."""
        return -(-(self.sequence.max_len - 1) // block_size) > self.blocks


@dataclass(slots=True)
class StepRun:
    """A run of steps that are alike but for the context, which grows by one token a row."""

    began: float  # virtual seconds
    steps: int
    first: StepTotals  # the work of the first step, without seconds
    growth: float  # KV blocks that each step reads more than the one before
    decoding: list[FastRow]
    prefills: list[tuple[FastRow, int]]  # with the tokens to compute; then there is one step
    first_s: float  # seconds of the first step
    block_s: float  # seconds that one more block read adds to a step

    def seconds(self, steps: int) -> float:
        """Return the time of the first ``steps``."""
        return steps * (self.first_s + self.block_s * self.growth * (steps - 1) / 2)

    def ended_by(self, now: float) -> int:
        """Return how many steps have ended at a time, all of them at most."""
        return self._count(now - self.began, whole=True)

    def needed_until(self, now: float) -> int:
        """Return the steps after which a time has come: those under way end."""
        return self._count(now - self.began, whole=False)

    def _count(self, elapsed: float, *, whole: bool) -> int:
        low, high = 0, self.steps
        if self.growth * self.block_s == 0:
            each = self.first_s
            if each <= 0:
                return high
            exact = elapsed / each
            # A sum of times is as good as its last digits: a step that is as good as over is over.
            count = math.floor(exact + 1e-6) if whole else math.ceil(exact - 1e-6)
            return min(high, max(low, count))
        while low < high:
            middle = (low + high + whole) // 2
            if whole:
                low, high = (
                    (middle, high) if self.seconds(middle) <= elapsed + 1e-9 else (low, middle - 1)
                )
            else:
                low, high = (
                    (low, middle) if self.seconds(middle) >= elapsed - 1e-9 else (middle + 1, high)
                )
        return low


@dataclass(slots=True)
class WorkSums:
    """Adds up the work of runs; its fields are those of ``StepTotals``."""

    steps: int = 0
    prefill_tokens: int = 0
    decode_rows: int = 0
    context_blocks: int = 0
    adapter_bytes: int = 0
    rank_rows: int = 0
    seconds: float = 0.0

    def add(self, run: StepRun, steps: int) -> None:
        """Add the first ``steps`` of a run."""
        first = run.first
        self.steps += steps
        self.prefill_tokens += first.prefill_tokens * steps
        self.decode_rows += first.decode_rows * steps
        more = int(run.growth * steps * (steps - 1) / 2)
        self.context_blocks += first.context_blocks * steps + more
        self.adapter_bytes += first.adapter_bytes * steps
        self.rank_rows += first.rank_rows * steps
        self.seconds += run.seconds(steps)

    def totals(self, run: StepRun | None, now: float) -> StepTotals:
        """Return the sums, with the steps that have ended of the run under way."""
        sums = self
        if run is not None:
            sums = replace(self)
            sums.add(run, run.ended_by(now))
        return StepTotals(
            sums.steps,
            sums.prefill_tokens,
            sums.decode_rows,
            sums.context_blocks,
            sums.adapter_bytes,
            sums.rank_rows,
            sums.seconds,
        )
