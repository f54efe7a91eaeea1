"""Rows go to a device piece by piece, and no piece is written again before it is there."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.upload import Upload, copy_in_pieces


@given(numel=st.integers(0, 200), size=st.integers(1, 16), pieces=st.integers(1, 3))
def test_every_byte_arrives_whenever_the_device_takes_it(
    numel: int, size: int, pieces: int
) -> None:
    """The device here copies as late as it may: when it is waited for."""
    source = torch.arange(numel, dtype=torch.float32)
    target = torch.full_like(source, -1.0)
    ring = [torch.zeros(size, dtype=torch.uint8) for _ in range(pieces)]
    under_way: list[int] = []

    def send(part: torch.Tensor, piece: torch.Tensor) -> Callable[[], None]:
        under_way.append(piece.data_ptr())
        assert len(under_way) == len(set(under_way)) <= pieces

        def wait() -> None:
            part.copy_(piece)
            under_way.remove(piece.data_ptr())

        return wait

    copy_in_pieces(target, source, ring, send)
    assert not under_way
    assert torch.equal(target, source)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_a_gpu_it_is_a_copy(dtype: torch.dtype) -> None:
    source = torch.arange(100, dtype=dtype)
    target = torch.zeros_like(source)
    Upload(torch.device("cpu")).copy(target, source)
    assert torch.equal(target, source)
