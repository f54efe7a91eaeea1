"""The truth of the fused multi-LoRA operator: fp32, plain loops."""

from collections.abc import Mapping, Sequence

import torch

LoraModule = tuple[torch.Tensor, torch.Tensor, float]
"""One adapter at one module: A [r, d_in], B [d_out, r], scaling (alpha / r or its variants)."""


def add_lora_reference(
    y: torch.Tensor,
    x: torch.Tensor,
    adapters: Mapping[int, Mapping[str, LoraModule]],
    out_slices: Sequence[tuple[str, int]],
    mixtures: Sequence[Sequence[tuple[int, float]]],
) -> torch.Tensor:
    """Compute ``y[t] + sum_k w[t,k] * scale[slot_k] * B[slot_k] A[slot_k] x[t]``, per column range.

    Args:
        y: [T, sum of widths], output of the base linears.
        x: [T, d_in], their input.
        adapters: slot -> module path -> (A [r, d_in], B [width, r], scaling); a module that is
            absent contributes nothing.
        out_slices: (module path, width) per column range of ``y``, in order.
        mixtures: one list of (slot, weight) per token, length T.

    Returns:
        [T, sum of widths], fp32; the arguments are left alone.
    """
    result = y.to(torch.float32).clone()
    for token, mixture in enumerate(mixtures):
        for slot, weight in mixture:
            column = 0
            for path, width in out_slices:
                if path in adapters[slot]:
                    lora_a, lora_b, scaling = adapters[slot][path]
                    shrunk = lora_a.to(torch.float32) @ x[token].to(torch.float32)
                    expanded = lora_b.to(torch.float32) @ shrunk
                    result[token, column : column + width] += weight * scaling * expanded
                column += width
    return result
