"""Counts what a step computes, in the units that its cost is linear in.

Pure, so that whatever plans steps, an engine or a simulation, counts them alike.
"""

from collections.abc import Callable

from cluster.domain.ids import Slot
from cluster.domain.work import StepTotals
from cluster.engine.steps import StepPlan

AdapterSize = tuple[int, int]
"""(bytes on the device, largest rank at any module) of the adapter in a slot."""


def step_totals(
    plan: StepPlan, block_size: int, adapter_size: Callable[[Slot], AdapterSize]
) -> StepTotals:
    """Count one step; its ``seconds`` are 0, for the caller to add.

    Every token is either a decode row, the newest token of a sequence that generates, or a prefill
    token, which tokens computed again after a preemption are too. An adapter counts for the rows of
    the spans that name it, whatever weights a gate, a router or a decision gives it there.
    """
    prefill = decode = blocks = rank_rows = nbytes = 0
    sizes: dict[Slot, AdapterSize] = {}
    for item in plan.scheduled:
        sequence, count = item.sequence, item.count
        if count == 1 and item.samples and item.start >= sequence.prompt_len:
            decode += 1
        else:
            prefill += count
        blocks += -(-item.end // block_size)
        for span, rows in sequence.spans_between(item.start, item.end):
            for slot, _ in sequence.spans[span].adapters:
                size = sizes.get(slot)
                if size is None:
                    size = sizes[slot] = adapter_size(slot)
                    nbytes += size[0]
                rank_rows += rows * size[1]
    return StepTotals(1, prefill, decode, blocks, nbytes, rank_rows)
