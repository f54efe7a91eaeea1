"""Storage for the adapters of a lane: rows of one tensor, or a tensor for each."""

from collections.abc import Callable

import torch

Allocate = Callable[[int], torch.Tensor]
"""Returns so many rows, [rows, numel], not initialised."""

_INITIAL_ROWS = 4


class StackedRows:
    """Rows of one tensor, which grows by doubling: any that lie together are a stack.

    On a CPU rows that no adapter was written to are pages that were never touched. Growing leaves
    the old tensor as it was for those who hold it.
    """

    def __init__(self, allocate: Allocate) -> None:
        self._allocate = allocate
        self._rows = allocate(0)

    @property
    def capacity(self) -> int:
        """Rows allocated."""
        return self._rows.shape[0]

    def grow(self, limit: int) -> list[int]:
        """Allocate more rows, up to ``limit`` and at least one; returns their positions."""
        old = self.capacity
        wanted = max(_INITIAL_ROWS, old + 1, min(2 * old, limit))
        grown = self._allocate(wanted)
        grown[:old].copy_(self._rows)
        self._rows = grown
        return list(range(wanted - 1, old - 1, -1))

    def row(self, position: int) -> torch.Tensor:
        """Return the row [numel] at a position."""
        return self._rows[position]

    def span(self, low: int, high: int) -> torch.Tensor | None:
        """Return the rows of positions ``low`` to ``high``, [high - low, numel]."""
        return self._rows[low:high]

    def keeps(self, _: int) -> bool:
        """Return True: the row at a position that is given back stays, for another adapter."""
        return True


class SeparateRows:
    """A tensor for each row, and none that no adapter is in: for a device whose memory is real
    from the moment it is allocated, and whose kernels find adapters by address."""

    def __init__(self, allocate: Allocate) -> None:
        self._allocate = allocate
        self._rows: dict[int, torch.Tensor] = {}

    @property
    def capacity(self) -> int:
        """Rows allocated."""
        return len(self._rows)

    def grow(self, _: int) -> list[int]:
        """Allocate a row; returns its position."""
        position = next(number for number in range(len(self._rows) + 1) if number not in self._rows)
        self._rows[position] = self._allocate(1)
        return [position]

    def row(self, position: int) -> torch.Tensor:
        """Return the row [numel] at a position."""
        return self._rows[position][0]

    def span(self, low: int, high: int) -> torch.Tensor | None:
        """Return a single row as [1, numel]; None for more, which do not lie together."""
        return self._rows[low] if high - low == 1 else None

    def keeps(self, position: int) -> bool:
        """Free the row at a position that is given back, and return False."""
        del self._rows[position]
        return False
