"""The native decode kernel's data, and the call itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from kernels.attention import native_kernel
from kernels.attention.cache import LayerKVCache
from kernels.native.compiler import openmp
from kernels.native.parallel import call_native

_PARALLEL_SCORES = 2048
"""Scores per layer from which a second thread is worth waking."""


def native_attention_available(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernel attends for these queries: fp32 on the CPU, on torch's threads."""
    return dtype == torch.float32 and device.type == "cpu" and openmp() is not None


@dataclass(frozen=True, slots=True)
class NativeDecode:
    """Decode rows as the kernel reads them."""

    tokens: torch.Tensor  # [rows] int64, token of each row
    tables: torch.Tensor  # [rows, longest table] int64
    first: torch.Tensor  # [rows] int64, first position seen
    last: torch.Tensor  # [rows] int64, one past the last
    longest: int  # positions seen by any row
    positions: int  # seen by all rows together
    _scratch: dict[int, torch.Tensor] = field(default_factory=dict)

    @staticmethod
    def build(
        tokens: Sequence[int], tables: Sequence[Sequence[int]], seen: Sequence[tuple[int, int]]
    ) -> NativeDecode:
        """Of rows with their block tables and the positions [first, last) each sees."""
        width = max(len(table) for table in tables)
        lengths = [last - first for first, last in seen]
        return NativeDecode(
            torch.tensor(tokens),
            torch.tensor([[*table, *[0] * (width - len(table))] for table in tables]),
            torch.tensor([first for first, _ in seen]),
            torch.tensor([last for _, last in seen]),
            max(lengths),
            sum(lengths),
        )

    def scratch(self, size: int) -> torch.Tensor:
        """A buffer [size] fp32 that all layers use in turn."""
        buffer = self._scratch.get(size)
        if buffer is None:
            buffer = self._scratch[size] = torch.empty(size)
        return buffer


def attend_native(
    out: torch.Tensor, q: torch.Tensor, cache: LayerKVCache, rows: NativeDecode, scale: torch.Tensor
) -> None:
    """Write the rows' results into ``out``.

    Args:
        out: [T, H, D] fp32, contiguous.
        q: [T, H, D] fp32; a token's heads lie one after another.
        cache: the layer's.
        rows: of this step.
        scale: [1] fp32, of the scores.
    """
    _, heads, dim = q.shape
    scores = rows.positions * heads
    threads = torch.get_num_threads() if scores >= _PARALLEL_SCORES else 1
    each = -(-rows.longest * heads // cache.kv_heads // 16) * 16
    call_native(
        native_kernel.attend.address,
        threads,
        q.data_ptr(),
        out.data_ptr(),
        rows.tokens.data_ptr(),
        cache.kv.data_ptr(),
        rows.tables.data_ptr(),
        rows.tables.stride(0),
        rows.first.data_ptr(),
        rows.last.data_ptr(),
        rows.tokens.shape[0],
        heads,
        cache.kv_heads,
        dim,
        cache.block_size,
        q.stride(0),
        rows.scratch(threads * each).data_ptr(),
        each,
        scale.data_ptr(),
    )
