"""Bytes of what a GPU's steps keep at fixed addresses, computed before anything is allocated."""

from __future__ import annotations

from cluster.config import AdapterConfig, EngineConfig
from cluster.engine.memory.model_shape import ModelShape
from kernels.attention import attention_triton_batch as paged
from kernels.lora import lora_triton_batch as lora
from kernels.lora.triton_slots import RECORD

INT32, INT64, FLOAT32 = 4, 8, 4
SITES_PER_LAYER = 4
"""q/k/v, o, gate/up and down."""
SLICES = 3
"""Most linears of one site: q, k and v."""
GRAPH_LOGITS = 2
"""Copies of the largest captured step's logits: its own, and those that all steps share."""


def batch_bytes(shape: ModelShape, engine: EngineConfig, adapters: AdapterConfig) -> int:
    """Return the bytes of ``TritonPagedBatch``, ``TritonLoraBatch`` and the inputs of captured
    steps.

    The model's own limit of positions is not known here, so block tables are counted for all of
    ``engine.max_model_len``.
    """
    rows = engine.max_batch_size
    tokens = max(engine.max_batch_tokens, rows)
    blocks = -(-engine.max_model_len // engine.block_size)
    tables = INT32 * (3 * rows + 2 * (rows + tokens // paged.TILE_QUERIES) + rows * blocks)
    tables += INT64 * tokens
    inputs = 2 * INT64 * rows
    head_input = rows * shape.hidden * FLOAT32
    # One for all of a step's tokens, one for the rows that the output head is given.
    batches = _lora_bytes(shape, adapters, rows, tokens) + _lora_bytes(shape, adapters, rows, rows)
    return tables + batches + inputs + head_input


def _lora_bytes(shape: ModelShape, adapters: AdapterConfig, rows: int, tokens: int) -> int:
    """Return the bytes of a ``TritonLoraBatch``."""
    pairs = adapters.max_mixture
    places = INT32 * (rows * (1 + pairs) + 2 * tokens + 3 * (rows + tokens // lora.TILE_TOKENS))
    splits = lora.split_count(max(shape.hidden, shape.inner, shape.heads * shape.head_dim))
    width = adapters.max_rank * SLICES
    scratch = FLOAT32 * pairs * (tokens + max(tokens, rows * splits) * width)
    sites = 1 + shape.layers * SITES_PER_LAYER  # the output head's and those of the layers
    slots = INT64 * adapters.slots * (1 + sites * SLICES * RECORD)
    return places + scratch + slots + _column_tiles(shape)


def attention_bytes(shape: ModelShape, engine: EngineConfig) -> int:
    """Return the most bytes that one layer's decode attention needs for partial sums."""
    rows = engine.max_batch_size * shape.heads * paged.MAX_SPLITS
    return rows * (shape.head_dim + 2) * FLOAT32


def graph_bytes(shape: ModelShape, engine: EngineConfig, item: int, copies: int) -> int:
    """Return the bytes that captured steps share: logits, and the largest one's activations, which
    the smaller ones use again.

    Args:
        shape: of the base model.
        engine: whether steps are captured, and of how many rows.
        item: bytes of a number of the engine's dtype.
        copies: tensors as wide as the MLP that a step holds at most.
    """
    if not engine.cuda_graphs:
        return 0
    logits = GRAPH_LOGITS * engine.max_batch_size * shape.vocabulary * item
    activations = engine.max_batch_size * shape.inner * item * copies
    return logits + activations + attention_bytes(shape, engine)


def _column_tiles(shape: ModelShape) -> int:
    attention = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    columns = attention + 2 * shape.inner + 2 * shape.hidden
    parts = SLICES + 2 + 1 + 1  # of which each may end with a tile that is not full
    head = shape.vocabulary // lora.TILE_COLUMNS + 1
    return (shape.layers * (columns // lora.TILE_COLUMNS + parts) + head) * 4 * INT32
