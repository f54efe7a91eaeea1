"""The native kernel's data: layout tables, a step's groups, and the call itself."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import torch

from kernels.lora.bank import AdapterBank
from kernels.lora.segments import NativeSegment
from kernels.lora.sites import AdapterLayout
from kernels.native.compiler import openmp
from kernels.native.parallel import run_native

_FLOAT = 4  # bytes

_PARALLEL_GROUPS = 4
"""Adapters from which a second thread is worth waking: each takes a few microseconds per site."""


def native_groups_available(bank: AdapterBank) -> bool:
    """Whether the kernel takes this bank's adapters: fp32 on the CPU, on torch's threads."""
    return bank.dtype == torch.float32 and bank.device.type == "cpu" and openmp() is not None


def native_segment(
    bank: AdapterBank, groups: Sequence[tuple[int, int, list[int]]], first: int
) -> NativeSegment:
    """Describe a step's groups.

    Args:
        bank: where the slots' adapters lie.
        groups: (slot, first pair, tokens of its pairs) per adapter, pairs counted from 0.
        first: the segment's first pair among the batch's.
    """
    from kernels.lora import native_kernel as kernel

    keep = []
    words = torch.empty((len(groups), kernel.GROUP_WORDS), dtype=torch.int64)
    tokens: list[int] = []
    rank = 1
    for index, (slot, start, group_tokens) in enumerate(groups):
        entry = bank.entry(slot)
        row, table = entry.lane.row(entry.position), layout_table(entry.lane.layout)
        keep += [row, table]
        tokens += group_tokens
        words[index] = torch.tensor([row.data_ptr(), table.data_ptr(), start, len(tokens)])
        rank = max(rank, entry.lane.layout.largest_site_rank)
    pair_tokens = torch.tensor(tokens)
    shrunk = torch.empty((len(tokens), -(-rank // 16) * 16))
    call = (ctypes.c_int64 * kernel.CALL_WORDS)()
    call[kernel.GROUPS] = words.data_ptr()
    call[kernel.GROUP_COUNT] = len(groups)
    call[kernel.TOKENS] = pair_tokens.data_ptr()
    call[kernel.SHRUNK] = shrunk.data_ptr()
    call[kernel.SHRUNK_STRIDE] = shrunk.stride(0)
    return NativeSegment(
        words=call,
        groups=words,
        first=first,
        last=first + len(tokens),
        shared_tokens=len(set(tokens)) < len(tokens),
        keep=(pair_tokens, shrunk, *keep),
    )


@cache
def layout_table(layout: AdapterLayout) -> torch.Tensor:
    """A layout as the kernel reads it: ``SITE_WORDS`` per site, then ``SLICE_WORDS`` per slice."""
    from kernels.lora import native_kernel as kernel

    words: list[int] = []
    slices: list[int] = []
    start = len(layout.sites) * kernel.SITE_WORDS
    for site in layout.sites:
        place = start + len(slices)
        words += [site.in_features, site.rank, site.offset, len(site.slices), place]
        for part in site.slices:
            slices += [
                part.column,
                part.width,
                part.rank_start,
                part.rank,
                part.offset,
                part.index,
            ]
    return torch.tensor(words + slices, dtype=torch.int64)


def add_native(
    y: torch.Tensor,
    x: torch.Tensor,
    segment: NativeSegment,
    site_index: int,
    weights: torch.Tensor,
) -> None:
    """Add a segment's adapters to one site's output, in place.

    Args:
        y: [T, out_features] fp32, unit stride along features; ``x`` [T, in_features] likewise.
        segment: of `native_segment`.
        site_index: of the site in the bank.
        weights: [pairs of the batch], or [pairs, slices of the site], fp32.
    """
    from kernels.lora import native_kernel as kernel

    slice_stride = 0
    if weights.dim() == 2:
        weights = weights.contiguous()
        slice_stride = 1
    words = segment.words
    words[kernel.X] = x.data_ptr()
    words[kernel.X_STRIDE] = x.stride(0)
    words[kernel.Y] = y.data_ptr()
    words[kernel.Y_STRIDE] = y.stride(0)
    words[kernel.SITE] = site_index
    words[kernel.WEIGHTS] = weights.data_ptr() + segment.first * weights.stride(0) * _FLOAT
    words[kernel.PAIR_STRIDE] = weights.stride(0)
    words[kernel.SLICE_STRIDE] = slice_stride
    address = kernel.add_groups.address
    threads = torch.get_num_threads() if segment.groups.shape[0] >= _PARALLEL_GROUPS else 1
    phases: tuple[int, ...] = (kernel.BOTH,)
    if threads > 1 and segment.shared_tokens:
        phases = (kernel.SHRINK, kernel.EXPAND)
    for phase in phases:
        words[kernel.PHASE] = phase
        run_native(address, ctypes.addressof(words), threads)
