"""The paged key/value cache of one layer."""

import math
import mmap
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class LayerKVCache:
    """Keys and values of one layer, in blocks.

    The layout [num_blocks, block_size, 2 * H_kv, D], a token's key heads before its value heads,
    keeps a block in one piece: gathering a row's blocks is a few large copies and gives
    [L, 2 * H_kv, D], which attention reads strided; storing a token is one copy.
    """

    kv: torch.Tensor  # [num_blocks, block_size, 2 * H_kv, D]

    @property
    def k(self) -> torch.Tensor:
        """Keys, a view [num_blocks, block_size, H_kv, D]."""
        return self.kv[:, :, : self.kv_heads]

    @property
    def v(self) -> torch.Tensor:
        """Values, a view [num_blocks, block_size, H_kv, D]."""
        return self.kv[:, :, self.kv_heads :]

    @property
    def kv_heads(self) -> int:
        """H_kv."""
        return self.kv.shape[2] // 2

    @property
    def block_size(self) -> int:
        """Tokens per block."""
        return self.kv.shape[1]

    @staticmethod
    def allocate(
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> "LayerKVCache":
        """Allocate a cache without tokens. Pages of CPU memory are taken on first use."""
        shape = (num_blocks, block_size, 2 * num_kv_heads, head_dim)
        return LayerKVCache(_zeros(shape, dtype, device))


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    """Allocate zeros; on the CPU in anonymous pages, which the kernel zeroes when they are first
    touched."""
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
