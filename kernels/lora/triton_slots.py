"""Keeps the place of every slot's adapter in device memory whose address never changes."""

from collections.abc import Iterable

import torch

from kernels.lora.bank import AdapterBank
from kernels.lora.sites import AdapterLayout, FusedSite

RECORD = 4
"""Numbers per (slot, site, slice): rank, first rank inside the site, offset of the site's A, offset
of the slice's B; offsets in elements from the start of the adapter's row."""


class SlotTable:
    """Addresses and extents of the adapters in a bank's slots, for kernels that look them up.

    A captured graph reads the table again on every replay, so it follows slots that are rewritten
    and lanes that grow. Slots are brought up to date when a step is about to use them.
    """

    def __init__(self, bank: AdapterBank) -> None:
        self._bank = bank
        self.slices = max(len(site.out_slices) for site in bank.sites)
        shape = (bank.slots, len(bank.sites), self.slices, RECORD)
        self.addresses = torch.zeros(bank.slots, dtype=torch.int64, device=bank.device)
        self.extents = torch.zeros(shape, dtype=torch.int64, device=bank.device)
        self._known: dict[int, tuple[AdapterLayout, int]] = {}
        self._extents_of: dict[int, tuple[AdapterLayout, torch.Tensor]] = {}  # by id of layouts

    def refresh(self, slots: Iterable[int]) -> tuple[torch.Tensor, ...]:
        """Bring these slots up to date, with one small transfer where any has changed.

        Returns:
            The adapters' rows; while they are held, so is what the table points to.

        Raises:
            ValueError: an empty slot.
        """
        rows: list[torch.Tensor] = []
        moved: list[int] = []
        reshaped: list[int] = []
        for slot in slots:
            entry = self._bank.entry(slot)
            row = entry.lane.row(entry.position)
            layout, address = entry.lane.layout, row.data_ptr()
            rows.append(row)
            known = self._known.get(slot)
            if known is None or known[1] != address:
                moved.append(slot)
            if known is None or known[0] is not layout:
                reshaped.append(slot)
            self._known[slot] = (layout, address)
        if moved:
            addresses = torch.tensor([self._known[slot][1] for slot in moved])
            self._write(self.addresses, moved, addresses)
        if reshaped:
            extents = [self._extents(self._known[slot][0]) for slot in reshaped]
            self._write(self.extents, reshaped, torch.stack(extents))
            known_ids = {id(layout) for layout, _ in self._known.values()}
            self._extents_of = {i: own for i, own in self._extents_of.items() if i in known_ids}
        return tuple(rows)

    def _extents(self, layout: AdapterLayout) -> torch.Tensor:
        """Return a layout's extents, worked out once for all slots that have it."""
        if id(layout) not in self._extents_of:  # comparing layouts by value takes longer
            extents = layout_extents(self._bank.sites, layout, self.slices)
            self._extents_of[id(layout)] = layout, extents
        return self._extents_of[id(layout)][1]

    def _write(self, table: torch.Tensor, slots: list[int], values: torch.Tensor) -> None:
        index = torch.tensor(slots).to(table.device, non_blocking=True)
        table.index_copy_(0, index, values.to(table.device, non_blocking=True))


def layout_extents(
    sites: tuple[FusedSite, ...], layout: AdapterLayout, slices: int
) -> torch.Tensor:
    """Return [sites, slices, RECORD] int64 of one layout; rank 0 for a missing module."""
    numbers: list[int] = []
    for place in layout.sites:
        records = [0] * (slices * RECORD)
        for part in place.slices:
            first = part.index * RECORD
            records[first : first + RECORD] = (
                part.rank,
                part.rank_start,
                place.offset,
                part.offset,
            )
        numbers += records
    return torch.tensor(numbers).view(len(sites), slices, RECORD)
