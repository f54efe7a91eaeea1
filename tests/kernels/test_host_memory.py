"""Memory of adapters on the host."""

import psutil
import pytest
import torch

from kernels.host_memory import allocate

MIB = 2**20


@pytest.mark.parametrize("nbytes", [0, 1, 4096, MIB - 1, MIB, 3 * MIB + 5])
def test_it_is_zeroed_and_can_be_written(nbytes: int) -> None:
    memory = allocate(nbytes)
    assert memory.nbytes == nbytes
    assert not any(memory[:4096])
    memory[-1:] = b"\x07"[:nbytes]
    assert bytes(memory[-1:]) == b"\x07"[:nbytes]


def test_a_tensor_keeps_it_and_the_system_has_it_back_afterwards() -> None:
    process = psutil.Process()
    float(torch.ones(64 * MIB // 4).sum())  # what torch itself makes once
    before = process.memory_info().rss
    row = torch.frombuffer(allocate(64 * MIB), dtype=torch.float32)[16:]
    row.fill_(1.0)
    assert process.memory_info().rss - before > 60 * MIB
    assert float(row.sum()) == row.numel()
    del row
    assert process.memory_info().rss - before < 4 * MIB
