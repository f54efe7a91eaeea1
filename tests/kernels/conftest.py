"""Memory that torch leaves uninitialised is NaN here: an unwritten output element fails at once."""

import math

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    def poisoning(allocate):
        def poisoned(*args, **kwargs):
            tensor = allocate(*args, **kwargs)
            return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

        return poisoned

    monkeypatch.setattr(torch, "empty", poisoning(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoning(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoning(torch.Tensor.new_empty))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
