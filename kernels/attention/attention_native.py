"""The native decode kernel's data, and the call itself."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from kernels.attention import attention_native_kernel as kernel
from kernels.attention.cache import LayerKVCache
from kernels.native.compiler import openmp
from kernels.native.parallel import call_native
from kernels.native.program import Operation

STEP_WORDS = kernel.STEP_WORDS
"""Words of a step, which the calls for its layers read."""

_PARALLEL_SCORES = 2048
"""Scores per layer from which a second thread is worth waking."""


def native_attention_available(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether the kernel attends for these queries: fp32 on the CPU, on torch's threads."""
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
    _steps: dict[tuple[int, int, int], ctypes.Array[ctypes.c_int64]] = field(default_factory=dict)
    _keep: list[torch.Tensor] = field(default_factory=list)  # what the words point to

    @staticmethod
    def build(
        tokens: Sequence[int], tables: Sequence[Sequence[int]], seen: Sequence[tuple[int, int]]
    ) -> NativeDecode:
        """Describe rows with their block tables and the positions [first, last) each sees."""
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

    def step(self, heads: int, kv_heads: int, threads: int) -> ctypes.Array[ctypes.c_int64]:
        """Return the kernel's words of this step, for all layers with so many heads."""
        key = heads, kv_heads, threads
        words = self._steps.get(key)
        if words is None:
            words = self._steps[key] = self._words(*key)
        return words

    def _words(self, heads: int, kv_heads: int, threads: int) -> ctypes.Array[ctypes.c_int64]:
        each = -(-self.longest * heads // kv_heads // 16) * 16
        scratch = torch.empty(threads * each)
        self._keep.append(scratch)
        words = (ctypes.c_int64 * kernel.STEP_WORDS)()
        words[kernel.TOKENS], words[kernel.ROWS] = self.tokens.data_ptr(), self.tokens.shape[0]
        words[kernel.TABLES], words[kernel.TABLE_STRIDE] = (
            self.tables.data_ptr(),
            self.tables.stride(0),
        )
        words[kernel.FIRST], words[kernel.LAST] = self.first.data_ptr(), self.last.data_ptr()
        words[kernel.SCRATCH], words[kernel.SCRATCH_STRIDE] = scratch.data_ptr(), each
        many = self.positions * heads >= _PARALLEL_SCORES
        words[kernel.MOST_THREADS] = threads if many else 1
        return words


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
    heads = q.shape[1]
    step = rows.step(heads, cache.kv_heads, torch.get_num_threads())
    call = layer_call(
        ctypes.addressof(step), (q.data_ptr(), q.stride(0)), out.data_ptr(), heads, cache, scale
    )
    call_native(call.kernel, step[kernel.MOST_THREADS], *call.words)


def layer_call(
    step: int,
    q: tuple[int, int],
    out: int,
    heads: int,
    cache: LayerKVCache,
    scale: torch.Tensor,
) -> Operation:
    """Return the kernel's call for one layer.

    Args:
        step: address of the ``STEP_WORDS`` words of a step.
        q: address and row stride of the queries.
        out: address of the results.
        heads: query heads.
        cache: the layer's.
        scale: [1] fp32, of the scores; it must outlive the call.
    """
    dim = cache.kv.shape[3]
    return Operation(
        kernel.attend.address,
        (
            step,
            *q,
            out,
            cache.kv.data_ptr(),
            heads,
            cache.kv_heads,
            dim,
            cache.block_size,
            scale.data_ptr(),
        ),
    )
