"""Adds a weighted sum of adapters to the outputs of a layer, with plain products of matrices.

vLLM keeps the adapters of a layer in stacks: A as [slots, 1, rank, inputs] and B as [slots, 1,
outputs, rank]. Seen as matrices of slots * rank rows, one product with A gives each row's products
with all adapters at once; each is multiplied by the row's weight for that slot, which is 0 for
adapters that are not the row's; one product with B adds them up. The costs do not depend on how
many adapters a mixture has, and all shapes are fixed but for the rows, so that a CUDA graph can
hold it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch


class SlotWeights(NamedTuple):
    """Weights of rows for slots.

    Attributes:
        values: [rows, slots, 1], fp32.
        unused: [rows, slots, 1], true for a slot that is not the row's. Its products are dropped
            even if they are infinite: a row never depends on another one's adapters. None: all
            are the row's.
    """

    values: torch.Tensor
    unused: torch.Tensor | None


def slots_innermost(stack: torch.Tensor) -> torch.Tensor:
    """Return a stack of B, [slots, 1, outputs, rank], whose memory is [outputs, slots, rank].

    It is indexed as before; its matrix of [outputs, slots * rank] can be had without a copy.
    """
    slots, _, outputs, rank = stack.shape
    memory = torch.empty((outputs, slots, rank), dtype=stack.dtype, device=stack.device)
    moved = memory.permute(1, 0, 2).unsqueeze(1)
    moved.copy_(stack)
    return moved


def add_weighted(
    output: torch.Tensor,
    inputs: torch.Tensor,
    a_stack: torch.Tensor,
    b_stack: torch.Tensor,
    weights: SlotWeights,
    scale: float = 1.0,
) -> None:
    """Add the weighted sum of adapters to ``output``, in place.

    Args:
        output: [rows, outputs]; may be part of a wider tensor.
        inputs: [rows, inputs].
        a_stack: [slots, 1, rank, inputs], without gaps.
        b_stack: [slots, 1, outputs, rank].
        scale: multiplies all weights.
    """
    slots, _, rank, width = a_stack.shape
    rows = inputs.size(0)
    shrunk = inputs.to(a_stack.dtype) @ a_stack.reshape(slots * rank, width).t()
    by_slot = shrunk.view(rows, slots, rank)
    by_slot.mul_(weights.values if scale == 1.0 else weights.values * scale)
    if weights.unused is not None:
        by_slot.masked_fill_(weights.unused, 0)
    outputs = min(output.size(1), b_stack.size(2))  # both may be padded, to different sizes
    expand = b_stack[:, 0, :outputs].permute(1, 0, 2).reshape(outputs, slots * rank).t()
    target = output[:, :outputs]
    if target.dtype == shrunk.dtype:
        target.addmm_(shrunk, expand)
    else:
        target.add_(shrunk @ expand)


def add_weighted_slices(
    output: torch.Tensor,
    inputs: torch.Tensor,
    a_stacks: Sequence[torch.Tensor],
    b_stacks: Sequence[torch.Tensor],
    weights: SlotWeights,
    scale: float,
    widths: Sequence[int],
) -> None:
    """Add sums to a layer of several slices, such as q, k and v, side by side in ``output``."""
    start = 0
    for a_stack, b_stack, width in zip(a_stacks, b_stacks, widths, strict=True):
        add_weighted(output[:, start : start + width], inputs, a_stack, b_stack, weights, scale)
        start += width
