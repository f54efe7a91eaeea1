"""The native kernel's data: layout tables, a step's groups, and the call itself."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch

from kernels.lora import lora_native_kernel as kernel
from kernels.lora.bank import AdapterBank
from kernels.lora.lane import Lane
from kernels.lora.runs import NativeRun
from kernels.lora.sites import AdapterLayout
from kernels.native.compiler import openmp
from kernels.native.parallel import call_native
from kernels.native.program import Operation

_PARALLEL_PAIRS = 4
"""Pairs from which a second thread is worth waking: each takes a few microseconds per site."""

STEP_WORDS = kernel.STEP_WORDS
"""Words of a step, which the calls for its sites read."""

WEIGHT_WORDS = kernel.WEIGHT_WORDS
"""Words of a site's weights, of `weight_words`."""

PHASES = 2
"""Calls for one site; the second has nothing to do where no token has two adapters."""

_MANY_TOKENS = 64
"""Tokens from which threads share them out: an adapter then is read by each thread, but a block of
tokens stays in one core's cache from the first adapter to the last."""

_KERNEL = kernel.add_groups.address
_tables: WeakKeyDictionary[Lane, torch.Tensor] = WeakKeyDictionary()


def native_groups_available(bank: AdapterBank) -> bool:
    """Return whether the kernel takes this bank's adapters: for fp32 on the CPU, on torch's
    threads."""
    if bank.storage not in (torch.float32, torch.bfloat16):
        return False
    return bank.dtype == torch.float32 and bank.device.type == "cpu" and openmp() is not None


def native_run(bank: AdapterBank, groups: Sequence[tuple[int, int, list[int]]]) -> NativeRun:
    """Describe a step's groups.

    Args:
        bank: where the slots' adapters lie.
        groups: (slot, first pair, tokens of its pairs, ascending) per adapter, its pairs being
            the next ones.
    """
    keep = []
    described: list[list[int]] = []
    tokens: list[int] = []
    rank = 1
    for slot, start, group_tokens in groups:
        entry = bank.entry(slot)
        row, table = entry.lane.row(entry.position), _table(entry.lane)
        keep += [row, table]
        tokens += group_tokens
        described.append([row.data_ptr(), table.data_ptr(), start, len(tokens)])
        rank = max(rank, entry.lane.layout.largest_site_rank)
    words = torch.tensor(described)
    pair_tokens = torch.tensor(tokens)
    bounds = torch.empty(0, dtype=torch.int64)
    shrunk = torch.empty((len(tokens), -(-rank // 16) * 16))
    distinct = len(set(tokens))
    if distinct >= _MANY_TOKENS:
        split, bounds = kernel.BY_TOKENS, _bounds(pair_tokens)
    elif distinct < len(tokens):
        split = kernel.BY_PHASES
    else:
        split = kernel.BY_PAIRS if len(groups) < _PARALLEL_PAIRS else kernel.BY_GROUPS
    step = (ctypes.c_int64 * kernel.STEP_WORDS)()
    step[kernel.GROUPS] = words.data_ptr()
    step[kernel.GROUP_COUNT] = len(groups)
    step[kernel.TOKENS] = pair_tokens.data_ptr()
    step[kernel.SHRUNK] = shrunk.data_ptr()
    step[kernel.SHRUNK_STRIDE] = shrunk.stride(0)
    step[kernel.ELEMENT] = bank.storage.itemsize
    step[kernel.SPLIT] = split
    step[kernel.MOST_THREADS] = len(tokens) if len(tokens) >= _PARALLEL_PAIRS else 1
    step[kernel.BOUNDS] = bounds.data_ptr()
    return NativeRun(
        step=step,
        groups=words,
        keep=(pair_tokens, shrunk, bounds, *keep),
    )


def _bounds(pair_tokens: torch.Tensor) -> torch.Tensor:
    """Return [kernel.TOKEN_CUTS + 1] tokens that cut the pairs into parts of similar size."""
    ordered = pair_tokens.sort().values
    starts = torch.arange(1, kernel.TOKEN_CUTS) * len(ordered) // kernel.TOKEN_CUTS
    last = ordered[-1:] + 1
    return torch.cat((torch.zeros(1, dtype=torch.int64), ordered[starts], last))


def _table(lane: Lane) -> torch.Tensor:
    table = _tables.get(lane)
    if table is None:
        table = _tables[lane] = layout_table(lane.layout)
    return table


def layout_table(layout: AdapterLayout) -> torch.Tensor:
    """Return a layout as the kernel reads it: ``SITE_WORDS`` per site, then ``SLICE_WORDS`` per
    slice."""
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
    run: NativeRun,
    site_index: int,
    weights: torch.Tensor,
) -> None:
    """Add a run's adapters to one site's output, in place.

    Args:
        y: [T, out_features] fp32, unit stride along features; ``x`` [T, in_features] likewise.
        run: of `native_run`.
        site_index: of the site in the bank.
        weights: [pairs of the batch], or [pairs, slices of the site], fp32.
    """
    weighing = (ctypes.c_int64 * kernel.WEIGHT_WORDS)(*weight_words(weights))
    step, threads = run.step, torch.get_num_threads()
    threads = min(step[kernel.MOST_THREADS], threads)
    for phase in range(PHASES if step[kernel.SPLIT] == kernel.BY_PHASES else 1):
        call = site_call(
            ctypes.addressof(step),
            ctypes.addressof(weighing),
            (x.data_ptr(), x.stride(0)),
            (y.data_ptr(), y.stride(0)),
            site_index,
            phase,
        )
        call_native(call.kernel, threads, *call.words)


def weight_words(weights: torch.Tensor) -> tuple[int, int, int]:
    """Return the kernel's words of weights [P] or [P, slices of a site]; they must outlive the
    calls."""
    slice_stride = 0 if weights.dim() == 1 else weights.stride(1)
    return weights.data_ptr(), weights.stride(0), slice_stride


def site_call(
    step: int,
    weighing: int,
    x: tuple[int, int],
    y: tuple[int, int],
    site_index: int,
    phase: int,
) -> Operation:
    """Return the kernel's call for one site, phase by phase.

    Args:
        step: address of the ``STEP_WORDS`` words of a step.
        weighing: address of `weight_words`.
        x, y: address and row stride of the site's input and output.
        site_index: of the site in the bank.
        phase: 0 .. PHASES - 1.
    """
    return Operation(_KERNEL, (step, weighing, *x, *y, site_index, phase))
