"""Runs mixtures where vLLM runs on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from vllm_weighted_lora.row_blocks import Block, plan_blocks
from vllm_weighted_lora.row_weights import RowWeights
from vllm_weighted_lora.weighted_sum import SlotWeights, add_weighted


class MixtureWrapperCPU(PunicaWrapperCPU):
    """Takes the place of vLLM's wrapper; multiplies only the slots that a block of rows uses."""

    def __init__(
        self, max_num_batched_tokens: int, max_batches: int, device: Any, **kwargs: Any
    ) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device, **kwargs)
        self.row_weights = RowWeights()
        self._tokens: list[tuple[Block, SlotWeights]] = []
        self._samples: list[tuple[Block, SlotWeights]] = []

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
        self._tokens = _plan(tokens, len(lora_index_to_id))
        self._samples = _plan(samples, len(lora_index_to_id))

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
        """Add the adapters of each row to the outputs of a linear layer."""
        start = 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            _add_blocks(y[:, start : start + width], x, a, b, self._tokens, scale)
            start += width

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
        rows, width = y.view(-1, y.size(-1)), x.size(-1)
        _add_blocks(rows, x.view(-1, width), lora_a_stacked, lora_b_stacked, self._samples, scale)


def _plan(runs: list[tuple[int, dict[int, float]]], slots: int) -> list[tuple[Block, SlotWeights]]:
    blocks = plan_blocks((length, tuple(weights)) for length, weights in runs)
    if not blocks:
        return []
    table = torch.tensor([[weights.get(slot, 0.0) for slot in range(slots)] for _, weights in runs])
    lengths = torch.tensor([length for length, _ in runs])
    rows = table.repeat_interleave(lengths, dim=0)
    used = torch.tensor([[slot in weights for slot in range(slots)] for _, weights in runs])
    used_rows = used.repeat_interleave(lengths, dim=0)
    return [(block, _weights(_part(rows, block), _part(used_rows, block))) for block in blocks]


def _part(rows: torch.Tensor, block: Block) -> torch.Tensor:
    return rows[block.first_row : block.end_row, block.first_slot : block.end_slot, None]


def _weights(values: torch.Tensor, used: torch.Tensor) -> SlotWeights:
    return SlotWeights(values, None if bool(used.all()) else ~used)


def _add_blocks(
    y: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    blocks: list[tuple[Block, SlotWeights]],
    scale: float,
) -> None:
    for block, weights in blocks:
        rows = slice(block.first_row, block.end_row)
        slots = slice(block.first_slot, block.end_slot)
        add_weighted(y[rows], x[rows], a[slots], b[slots], weights, scale)
