"""The table of slots that Triton's kernels read: what is written again, and what is not."""

import pytest
import torch

from kernels.lora import triton_slots
from kernels.lora.bank import AdapterBank
from kernels.lora.sites import FusedSite
from kernels.lora.triton_slots import SlotTable, layout_extents

SITES = (
    FusedSite("qkv", 8, (("q", 16), ("k", 4), ("v", 5))),
    FusedSite("o", 16, (("o", 8),)),
)


def adapter(rank: int, *modules: str) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    return {
        path: (torch.randn(rank, site.in_features), torch.randn(width, rank), 1.0)
        for site in SITES
        for path, width in site.out_slices
        if path in modules
    }


@pytest.fixture
def bank() -> AdapterBank:
    bank = AdapterBank(SITES, 12, 8)
    for slot in range(3):
        bank.write(slot, adapter(2, "q", "v", "o"))
    bank.write(3, adapter(3, "k"))
    return bank


@pytest.fixture
def worked_out(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Layouts whose extents were worked out."""
    layouts: list[object] = []

    def spy(sites: object, layout: object, slices: int) -> torch.Tensor:
        layouts.append(layout)
        return layout_extents(SITES, layout, slices)

    monkeypatch.setattr(triton_slots, "layout_extents", spy)
    return layouts


def check(table: SlotTable, bank: AdapterBank, slot: int) -> None:
    """Assert that the table tells a slot's A and B of every module."""
    entry = bank.entry(slot)
    row = entry.lane.row(entry.position)
    assert table.addresses[slot] == row.data_ptr()
    stack = entry.lane.single(entry.position)
    for index, site in enumerate(SITES):
        view = stack.site(index)
        parts = {} if view is None else {part.index: part for part in view.expands}
        for number in range(table.slices):
            rank, first, a, b = table.extents[slot, index, number].tolist()
            if number not in parts:
                assert rank == 0
                continue
            width = site.out_slices[number][1]
            rows = row[a : a + view.a_t.numel()].view(-1, site.in_features)[first : first + rank]
            assert torch.equal(rows, view.a_t.T[first : first + rank])
            assert torch.equal(row[b : b + rank * width].view(rank, width), parts[number].b)


def test_slots_of_one_layout_are_worked_out_once(bank: AdapterBank, worked_out: list[object]):
    table = SlotTable(bank)
    table.refresh(range(4))
    for slot in range(4):
        check(table, bank, slot)
    assert len(worked_out) == 2
    bank.write(5, adapter(2, "q", "v", "o"))
    table.refresh([5, 0])
    check(table, bank, 5)
    assert len(worked_out) == 2


def test_an_adapter_that_moves_keeps_its_extents(bank: AdapterBank, worked_out: list[object]):
    table = SlotTable(bank)
    table.refresh(range(4))
    extents = table.extents.clone()
    for slot in range(4, 12):
        bank.write(slot, adapter(2, "q", "v", "o"))
    table.refresh(range(4))
    for slot in range(4):
        check(table, bank, slot)
    assert torch.equal(table.extents, extents)
    assert len(worked_out) == 2


def test_a_slot_that_gets_another_layout_is_written_again(
    bank: AdapterBank, worked_out: list[object]
):
    table = SlotTable(bank)
    table.refresh(range(4))
    bank.write(3, adapter(5, "q", "k"))
    table.refresh([3])
    check(table, bank, 3)
    assert len(worked_out) == 3
    bank.write(3, adapter(2, "q", "v", "o"))
    table.refresh([3, 0])
    check(table, bank, 3)
    assert len(worked_out) == 3
