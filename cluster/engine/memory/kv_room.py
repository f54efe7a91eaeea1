"""Sizes the KV cache by what a GPU has free once everything else is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog
import torch

from cluster.config import AdapterConfig, EngineConfig
from cluster.engine.memory.gpu_buffers import graph_bytes
from cluster.engine.memory.memory_need import ACTIVATION_COPIES, GIB, LOGIT_COPIES
from cluster.engine.memory.model_shape import ModelShape
from cluster.engine.model.model_loader import LoadedModel
from cluster.errors import ConfigError

log = structlog.get_logger(__name__)

SPARE_SHARE = 0.05
"""Of a GPU's memory, left for what cannot be computed: workspaces of libraries, compiled kernels,
the driver's share of captured steps, and what the allocator cannot use of its spans."""
MOST_BLOCKS = 2**18
"""For the books of a pool: at 16 tokens each, four million tokens."""


def cache_sizer(
    model_dir: Path, loaded: LoadedModel, config: EngineConfig, adapters: AdapterConfig
) -> Callable[[int], int] | None:
    """Return what tells the number of KV blocks, given the bytes of the largest step; None if the
    configuration or the device decides."""
    if config.kv_blocks != "auto" or loaded.device.type != "cuda":
        return None
    shape = ModelShape.read(model_dir)
    item = loaded.dtype.itemsize
    graphs = 0 if shape is None else graph_bytes(shape, config, item, ACTIVATION_COPIES)
    logits = config.max_batch_size * loaded.vocab_size * 4 * LOGIT_COPIES
    block = config.block_size * 2 * loaded.num_layers * loaded.num_kv_heads * loaded.head_dim * item
    least = -(-min(loaded.max_model_len, config.max_model_len) // config.block_size)

    def size(step: int) -> int:
        free, total = torch.cuda.mem_get_info(loaded.device)
        taken = {
            "adapters": adapters.memory_bytes,
            "steps": step + logits,
            "graphs": graphs,
            "spare": int(SPARE_SHARE * total),
        }
        blocks = fitting_blocks(free, taken, block, least)
        log.info("KV cache sized", free=free, blocks=blocks, bytes=blocks * block, **taken)
        return blocks

    return size


def fitting_blocks(free: int, taken: dict[str, int], block: int, least: int) -> int:
    """Return how many KV blocks fit.

    Args:
        free: bytes that the device has.
        taken: bytes of what is not allocated yet, by what it is for.
        block: bytes of a block, of all layers.
        least: blocks of one request of the greatest length.

    Raises:
        ConfigError: fewer than ``least`` fit.
    """
    blocks = min((free - sum(taken.values())) // block, MOST_BLOCKS)
    if blocks < least:
        terms = ", ".join(f"{name} {size / GIB:.2f}" for name, size in taken.items())
        raise ConfigError(
            f"the GPU has {free / GIB:.2f} GiB free beyond the weights, and a request of the "
            f"greatest length takes {least * block / GIB:.2f} GiB of KV cache. In GiB: {terms}. "
            "What helps: a smaller engine.max_model_len, engine.max_batch_tokens or "
            "adapters.memory_bytes, or another process of this GPU that ends"
        )
    return blocks
