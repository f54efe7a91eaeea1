"""Buffers of a CPU's decode steps, at addresses that do not change."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class StepBuffers:
    """Inputs and results of a step's operations, one row per token; fp32 but for the KV indices."""

    rows: int  # most that fit
    threads: int  # most that the scratch is for
    x: torch.Tensor  # [rows, hidden], the residual stream
    normed: torch.Tensor  # [rows, hidden]
    qkv: torch.Tensor  # [rows, (H + 2 H_kv) D]
    attended: torch.Tensor  # [rows, H D]
    o: torch.Tensor  # [rows, hidden]
    gate_up: torch.Tensor  # [rows, 2 width]
    gated: torch.Tensor  # [rows, width]
    down: torch.Tensor  # [rows, hidden]
    logits: torch.Tensor  # [rows, vocabulary]
    cos: torch.Tensor  # [rows, D]
    sin: torch.Tensor  # [rows, D]
    kv_indices: torch.Tensor  # [rows] int64, where the tokens are stored in the cache
    scratch: torch.Tensor  # int8, of the products
