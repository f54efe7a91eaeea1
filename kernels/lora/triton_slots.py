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

    def refresh(self, slots: Iterable[int]) -> tuple[torch.Tensor, ...]:
        """Bring these slots up to date, with one small transfer where any has changed.

        Returns:
            The adapters' rows; while they are held, so is what the table points to.

        Raises:
            ValueError: an empty slot.
        """
        rows: list[torch.Tensor] = []
        changed: list[int] = []
        for slot in slots:
            entry = self._bank.entry(slot)
            row = entry.lane.row(entry.position)
            state = (entry.lane.layout, row.data_ptr())
            rows.append(row)
            known = self._known.get(slot)
            if known is None or known[0] is not state[0] or known[1] != state[1]:
                self._known[slot] = state
                changed.append(slot)
        if changed:
            self._write(changed)
        return tuple(rows)

    def _write(self, slots: list[int]) -> None:
        device = self._bank.device
        states = [self._known[slot] for slot in slots]
        extents = torch.stack(
            [layout_extents(self._bank.sites, layout, self.slices) for layout, _ in states]
        )
        index = torch.tensor(slots).to(device, non_blocking=True)
        addresses = torch.tensor([address for _, address in states])
        self.addresses.index_copy_(0, index, addresses.to(device, non_blocking=True))
        self.extents.index_copy_(0, index, extents.to(device, non_blocking=True))


def layout_extents(
    sites: tuple[FusedSite, ...], layout: AdapterLayout, slices: int
) -> torch.Tensor:
    """Return [sites, slices, RECORD] int64 of one layout; rank 0 for a missing module."""
    extents = torch.zeros((len(sites), slices, RECORD), dtype=torch.int64)
    for index, (site, place) in enumerate(zip(sites, layout.sites, strict=True)):
        columns = {part.column: part for part in place.slices}
        column = 0
        for number, (_, width) in enumerate(site.out_slices):
            part = columns.get(column)
            if part is not None:
                record = (part.rank, part.rank_start, place.offset, part.offset)
                extents[index, number] = torch.tensor(record)
            column += width
    return extents
