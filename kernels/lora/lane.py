"""A lane: adapters of one layout, side by side, readable as stacks by batched matmuls."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from kernels.host_memory import allocate
from kernels.lora.lane_rows import SeparateRows, StackedRows
from kernels.lora.sites import AdapterLayout, SiteLayout
from kernels.upload import Upload

_DENSE_SPAN = 1.5
"""Rows of a contiguous view per row that is needed, up to which reading idle rows is cheaper than
copying the needed ones together."""

_VIEWS_KEPT = 32
"""Contiguous views kept per lane: each holds a few hundred small Python objects."""


@dataclass(frozen=True, slots=True)
class ExpandView:
    """One slice's B over the rows of a stack ([n, ...]; without n for a single row)."""

    index: int  # among the site's slices
    column: int  # first output column
    width: int  # output columns
    rank_start: int  # first column of the site's shrunk activations
    rank: int
    b: torch.Tensor  # [n, rank, width]


@dataclass(frozen=True, slots=True)
class SiteView:
    """One site's tensors over the rows of a stack ([n, ...]; without n for a single row)."""

    a_t: torch.Tensor  # [n, in_features, rank], strided
    expands: tuple[ExpandView, ...]


@dataclass(slots=True)
class _Epoch:
    """Shared by the stacks over one filling of the working set; ends when a row is overwritten."""

    live: bool = True


class Stack:
    """Rows [n, numel] of a lane, with the per-site views a step reads, made on first use."""

    def __init__(
        self, layout: AdapterLayout, rows: torch.Tensor, epoch: _Epoch | None = None
    ) -> None:
        self.size = rows.shape[0]
        self._rows = rows
        self._layout = layout
        self._epoch = epoch
        self._views: list[SiteView | None] = [None] * len(layout.sites)

    @property
    def valid(self) -> bool:
        """False once a later batch has replaced rows that this stack read."""
        return self._epoch is None or self._epoch.live

    def site(self, index: int) -> SiteView | None:
        """Return the views of one site; None if the layout has nothing there."""
        view = self._views[index]
        if view is None:
            layout = self._layout.sites[index]
            if layout.rank == 0:
                return None
            view = self._views[index] = self._view(layout)
        return view

    def _view(self, layout: SiteLayout) -> SiteView:
        n, stride, base = self.size, self._rows.stride(0), self._rows.storage_offset()
        a_t = self._rows.as_strided(
            (n, layout.in_features, layout.rank),
            (stride, 1, layout.in_features),
            base + layout.offset,
        )
        expands = []
        for part in layout.slices:
            b = self._rows.as_strided(
                (n, part.rank, part.width), (stride, part.width, 1), base + part.offset
            )
            expands.append(
                ExpandView(
                    part.index,
                    part.column,
                    part.width,
                    part.rank_start,
                    part.rank,
                    b if n > 1 else b[0],
                )
            )
        return SiteView(a_t if n > 1 else a_t[0], tuple(expands))


class Lane:
    """Storage for adapters of one layout, by position.

    Positions that a step needs are handed out as one ``Stack``: a plain view when they lie close
    together, else rows of a working set into which only newly needed adapters are copied. Decode
    steps keep their set of adapters for many steps, so the copy is rare; it is bounded by the
    adapters of one step.

    One writer at a time (the bank sees to it) may ``place`` and ``release`` while another thread
    asks for stacks of other positions.

    Args:
        separate: True for a tensor of its own for each adapter (`SeparateRows`).
    """

    def __init__(
        self,
        layout: AdapterLayout,
        *,
        dtype: torch.dtype,
        device: torch.device,
        upload: Upload,
        separate: bool,
    ) -> None:
        self.layout = layout
        self._upload = upload
        self._dtype = dtype
        # No method: a lane that nothing refers to any more must be freed at once.
        self._allocate = partial(_allocate_rows, numel=layout.numel, dtype=dtype, device=device)
        self._lock = threading.Lock()
        self._rows: SeparateRows | StackedRows = (
            SeparateRows(self._allocate) if separate else StackedRows(self._allocate)
        )
        self._free: list[int] = []
        self._used: set[int] = set()
        self._views: OrderedDict[tuple[int, int], Stack] = OrderedDict()
        self._working_rows = self._allocate(0)
        self._working_held: list[int | None] = []  # position whose copy each working row holds
        self._working_stack: Stack | None = None
        self._epoch = _Epoch()

    @property
    def used(self) -> frozenset[int]:
        """Positions that hold an adapter."""
        return frozenset(self._used)

    @property
    def free(self) -> tuple[int, ...]:
        """Positions without one."""
        return tuple(self._free)

    @property
    def capacity(self) -> int:
        """Rows allocated."""
        return self._rows.capacity

    @property
    def row_nbytes(self) -> int:
        """Bytes of one adapter."""
        return self.layout.numel * self._dtype.itemsize

    @property
    def allocated_nbytes(self) -> int:
        """Bytes reserved, free rows and working set included."""
        return (self.capacity + self._working_rows.shape[0]) * self.row_nbytes

    def row(self, position: int) -> torch.Tensor:
        """Return the adapter [numel] at a used position, in the storage of now, which it keeps
        alive."""
        return self._rows.row(position)

    def place(self, row: torch.Tensor, limit: int) -> int:
        """Copy an adapter's row [numel] into a free position, growing up to ``limit`` rows.

        Stacks handed out before stay readable.
        """
        if not self._free:
            grown = self._rows.grow(limit)  # not under the lock: it may copy all rows
            with self._lock:
                self._free.extend(grown)
                self._views.clear()
        with self._lock:
            position = self._free.pop()
            self._used.add(position)
        self._upload.copy(self._rows.row(position), row)
        return position

    def release(self, position: int) -> None:
        """Give a position back."""
        with self._lock:
            self._used.remove(position)
            if self._rows.keeps(position):
                self._free.append(position)
            else:
                self._views.pop((position, position + 1), None)
            self._working_held = [None if p == position else p for p in self._working_held]

    def stack(self, positions: Sequence[int]) -> tuple[Stack, dict[int, int]]:
        """Return a stack that contains ``positions``, and each one's row in it.

        Args:
            positions: distinct used positions, at least one.
        """
        low, high = min(positions), max(positions) + 1
        with self._lock:
            if high - low <= _DENSE_SPAN * len(positions):
                stack = self._view(low, high)
                if stack is not None:
                    return stack, {p: p - low for p in positions}
            return self._working_set(positions)

    def single(self, position: int) -> Stack:
        """Return a stack of one."""
        with self._lock:
            stack = self._view(position, position + 1)
        assert stack is not None  # a single row is one
        return stack

    def _view(self, low: int, high: int) -> Stack | None:
        stack = self._views.get((low, high))
        if stack is None:
            rows = self._rows.span(low, high)
            if rows is None:
                return None
            stack = self._views[low, high] = Stack(self.layout, rows)
            if len(self._views) > _VIEWS_KEPT:
                self._views.popitem(last=False)
        else:
            self._views.move_to_end((low, high))
        return stack

    def _working_set(self, positions: Sequence[int]) -> tuple[Stack, dict[int, int]]:
        count = len(positions)
        if self._working_rows.shape[0] < count:
            self._grow_working_rows(count)
        held = self._working_held
        wanted = set(positions)
        row_of = {p: row for row, p in enumerate(held[:count]) if p in wanted and p is not None}
        vacant = [row for row in range(count) if held[row] not in wanted]
        missing = [p for p in positions if p not in row_of]
        if missing:
            self._end_epoch()
        for position, row in zip(missing, vacant, strict=True):
            held[:] = [None if p == position else p for p in held]
            self._working_rows[row].copy_(self._rows.row(position))
            held[row] = position
            row_of[position] = row
        if self._working_stack is None or self._working_stack.size != count:
            rows = self._working_rows[:count]
            self._working_stack = Stack(self.layout, rows, self._epoch)
        return self._working_stack, row_of

    def _grow_working_rows(self, count: int) -> None:
        old = self._working_rows
        grown = self._allocate(max(count, min(2 * old.shape[0], self.capacity)))
        grown[: old.shape[0]].copy_(old)
        self._working_rows = grown
        self._working_held += [None] * (grown.shape[0] - old.shape[0])
        self._working_stack = None
        self._epoch = _Epoch()

    def _end_epoch(self) -> None:
        self._epoch.live = False
        self._epoch = _Epoch()
        self._working_stack = None


def _allocate_rows(
    rows: int, *, numel: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return memory for rows [rows, numel], not initialised."""
    if device.type != "cpu" or not rows:
        return torch.empty((rows, numel), dtype=dtype, device=device)
    memory = allocate(rows * numel * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype).view(rows, numel)
