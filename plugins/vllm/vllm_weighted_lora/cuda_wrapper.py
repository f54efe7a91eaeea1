"""Runs mixtures where vLLM runs on a GPU, under CUDA graphs as well.

All slots are multiplied for all rows, whatever a step holds: what a graph captured stays right, and
a step only writes the rows' weights, in place, into one buffer. vLLM's own metadata is kept for the
layers that mixtures do not reach. This module has not run on a GPU: its tests are for a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU

from vllm_weighted_lora.row_weights import RowWeights
from vllm_weighted_lora.weighted_sum import SlotWeights, add_weighted_slices


def _add_mixtures(
    output: torch.Tensor,
    inputs: torch.Tensor,
    a_stacks: list[torch.Tensor],
    b_stacks: list[torch.Tensor],
    weights: torch.Tensor,
    unused: torch.Tensor,
    any_adapter: torch.Tensor,
    scale: float,
    widths: list[int],
) -> None:
    # The flag lies in host memory. It is read when the operator runs or is captured, not when
    # torch.compile traces the model: graphs of steps without adapters hold nothing of it.
    if inputs.size(0) and any_adapter.item():
        rows = SlotWeights(weights[: inputs.size(0)], unused[: inputs.size(0)])
        add_weighted_slices(output, inputs, a_stacks, b_stacks, rows, scale, widths)


_LIBRARY = torch.library.Library("vllm_weighted_lora", "DEF")
_LIBRARY.define(
    "add_mixtures(Tensor(a!) output, Tensor inputs, Tensor[] a_stacks, Tensor[] b_stacks,"
    " Tensor weights, Tensor unused, Tensor any_adapter, float scale, int[] widths) -> ()"
)
_LIBRARY.impl("add_mixtures", _add_mixtures, "CompositeExplicitAutograd")
_LIBRARY._register_fake("add_mixtures", lambda *_: None)
add_mixtures = torch.ops.vllm_weighted_lora.add_mixtures


class _WeightBuffer:
    """Holds weights of rows for slots at one address, and whether there are any."""

    def __init__(self, rows: int, slots: int, device: Any) -> None:
        self.weights = torch.zeros((rows, slots, 1), dtype=torch.float32, device=device)
        self.unused = torch.ones((rows, slots, 1), dtype=torch.bool, device=device)
        self.any_adapter = torch.tensor([False], device="cpu")

    def write(self, runs: list[tuple[int, dict[int, float]]]) -> None:
        """Write the rows of a step; rows after them, which pad it, get no adapters."""
        slots = self.weights.size(1)
        absent = float("nan")
        table = [[weights.get(slot, absent) for slot in range(slots)] for _, weights in runs]
        lengths = torch.tensor([length for length, _ in runs], dtype=torch.long)
        rows = torch.tensor(table).view(-1, slots, 1).repeat_interleave(lengths, dim=0)
        self.any_adapter[0] = any(weights for _, weights in runs)
        self.unused.fill_(True)
        self.unused[: rows.size(0)].copy_(rows.isnan())
        self.weights[: rows.size(0)].copy_(rows.nan_to_num_(0.0))


class MixtureWrapperGPU(PunicaWrapperGPU):
    """Takes the place of vLLM's wrapper on a GPU."""

    def __init__(
        self, max_num_batched_tokens: int, max_batches: int, device: Any, **kwargs: Any
    ) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device, **kwargs)
        self.row_weights = RowWeights()
        self._tokens = _WeightBuffer(max_num_batched_tokens, self.max_loras, device)
        self._samples = _WeightBuffer(max_num_batched_tokens, self.max_loras, device)

    def update_metadata(
        self,
        mapping: LoRAMapping,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **kwargs: Any,
    ) -> None:
        """Take the rows of the next step, with the adapters that they use."""
        plain = self.row_weights.plain_mapping(mapping)
        super().update_metadata(plain, lora_index_to_id, max_loras, vocab_size, **kwargs)
        tokens, samples = self.row_weights.mapped_runs(mapping, lora_index_to_id)
        self._tokens.write(tokens)
        self._samples.write(samples)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Add the adapters of each row to the outputs of a linear layer.

        With ``add_inputs=False`` vLLM hands zeros over, so adding is right for both.
        """
        held = self._tokens
        add_mixtures(
            y,
            x,
            list(lora_a_stacked),
            list(lora_b_stacked),
            held.weights,
            held.unused,
            held.any_adapter,
            scale,
            list(output_slices),
        )

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        *,
        buffer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Add the adapters of each sampled row to its logits."""
        held = self._samples
        add_mixtures(
            y.view(-1, y.size(-1)),
            x.view(-1, x.size(-1)),
            [lora_a_stacked],
            [lora_b_stacked],
            held.weights,
            held.unused,
            held.any_adapter,
            scale,
            [y.size(-1)],
        )
