"""The batch of the fast engine, as numbers: its rows, and what a run of equal steps costs."""

import math
from dataclasses import dataclass

from cluster.domain.work import StepTotals
from cluster.engine.sequence import EngineSequence
from cluster.simulation.replica.prefix_memory import BlockName


@dataclass(slots=True, eq=False)
class FastRow:
    """One sequence, without its tokens and blocks: only how many there are."""

    sequence: EngineSequence
    end: int  # tokens of its completion at which it ends
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

    def totals_after(self, before: StepTotals, steps: int) -> StepTotals:
        """Return the work of the first ``steps``, and what was done before them."""
        first, more = self.first, int(self.growth * steps * (steps - 1) / 2)
        return StepTotals(
            before.steps + steps,
            before.prefill_tokens + first.prefill_tokens * steps,
            before.decode_rows + first.decode_rows * steps,
            before.context_blocks + first.context_blocks * steps + more,
            before.adapter_bytes + first.adapter_bytes * steps,
            before.rank_rows + first.rank_rows * steps,
            before.seconds + self.seconds(steps),
        )

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
