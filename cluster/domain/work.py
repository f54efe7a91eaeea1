"""Totals of a replica's work since it started, from which costs are learnt.

All totals only grow, so the difference of two readings is exact, and a lost reading loses nothing.
"""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class StepTotals:
    """Sums over the engine's successful steps."""

    steps: int = 0
    prefill_tokens: int = 0  # prompt tokens computed
    decode_rows: int = 0  # sequences that got their next token
    context_blocks: int = 0  # KV blocks read
    adapter_bytes: int = 0  # of the distinct adapters applied in each step
    rank_rows: int = 0  # over all rows, the ranks applied to them
    seconds: float = 0.0  # spent in the steps

    def since(self, earlier: Self) -> "StepTotals":
        """Return what was done after ``earlier``; all of it if the totals began again."""
        if earlier.steps > self.steps or earlier.seconds > self.seconds:
            return self
        return StepTotals(
            self.steps - earlier.steps,
            self.prefill_tokens - earlier.prefill_tokens,
            self.decode_rows - earlier.decode_rows,
            self.context_blocks - earlier.context_blocks,
            self.adapter_bytes - earlier.adapter_bytes,
            self.rank_rows - earlier.rank_rows,
            self.seconds - earlier.seconds,
        )


@dataclass(frozen=True, slots=True)
class LoadTotals:
    """Sums over the adapters loaded to the device from one tier."""

    loads: int = 0
    nbytes: int = 0
    seconds: float = 0.0  # from the start of each load to its end, waits for others left out

    def since(self, earlier: Self) -> "LoadTotals":
        """Return what was loaded after ``earlier``; all of it if the totals began again."""
        if earlier.loads > self.loads:
            return self
        return LoadTotals(
            self.loads - earlier.loads,
            self.nbytes - earlier.nbytes,
            self.seconds - earlier.seconds,
        )


@dataclass(frozen=True, slots=True)
class WorkTotals:
    """All that a cost model learns from one replica."""

    steps: StepTotals = StepTotals()
    host_loads: LoadTotals = LoadTotals()  # from host memory
    disk_loads: LoadTotals = LoadTotals()  # from files
