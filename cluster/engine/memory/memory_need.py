"""Computes what one replica needs of its device's memory, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.config import AdapterConfig, EngineConfig
from cluster.engine.memory.model_shape import ModelShape
from cluster.errors import ConfigError

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
LOGIT_COPIES = 4
"""Tensors of the logits' size that sampling makes at most."""
ACTIVATION_COPIES = 6
"""Tensors as wide as the MLP that a step holds at most."""
GIB = 2**30


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes at most, by what they are for."""

    weights: int
    packed: int  # copies of weights in another layout, kept with the originals
    kv_cache: int
    adapters: int
    steps: int  # activations and logits
    buffers: int  # of a GPU's kernels, and the pool of its captured steps
    loading: int  # weights as they are read, and what is packed at once

    @property
    def running(self) -> int:
        """All that is there once the model is loaded."""
        kept = self.weights + self.packed + self.kv_cache + self.adapters
        return kept + self.steps + self.buffers

    @property
    def total(self) -> int:
        """The highest point."""
        return max(self.running, self.loading)


def memory_need(
    shape: ModelShape, engine: EngineConfig, adapters: AdapterConfig, device: str
) -> MemoryNeed:
    """Compute what a replica takes besides the program itself.

    On a GPU the workspaces of its libraries, compiled kernels, the driver's share of captured steps
    and what the allocator cannot use of its spans come on top: some hundred MiB that nothing
    here can compute.

    Args:
        shape: of the base model.
        engine: dtype, quantisation, KV blocks, batch sizes.
        adapters: their share.
        device: "cpu" or "cuda"; weights are packed on the CPU only.
    """
    item = ITEM_BYTES[engine.dtype_on(device)]
    product_item = 1 if engine.quantize == "int8" else item
    embedding = shape.vocabulary * shape.hidden
    # A tied head reads the embedding's rows, so its packed copy is extra.
    packed = embedding * product_item if shape.tied and device == "cpu" else 0
    widest = max(2 * shape.inner * shape.hidden, embedding)
    steps = engine.max_batch_size * shape.vocabulary * 4 * LOGIT_COPIES
    steps += engine.max_batch_tokens * shape.inner * item * ACTIVATION_COPIES
    buffers = 0
    if device == "cuda":
        from cluster.engine.memory import gpu_buffers  # needs torch

        steps += gpu_buffers.attention_bytes(shape, engine)
        buffers = gpu_buffers.batch_bytes(shape, engine, adapters)
        buffers += gpu_buffers.graph_bytes(shape, engine, item, ACTIVATION_COPIES)
    return MemoryNeed(
        weights=embedding * item + (shape.parameters - embedding) * product_item,
        packed=packed,
        kv_cache=least_kv_blocks(engine, device)
        * engine.block_size
        * 2
        * shape.layers
        * shape.kv_heads
        * shape.head_dim
        * item,
        adapters=adapters.memory_bytes + (adapters.host_bytes if device == "cpu" else 0),
        steps=steps,
        buffers=buffers,
        loading=shape.parameters * item + (2 * widest * item if device == "cpu" else 0),
    )


def least_kv_blocks(engine: EngineConfig, device: str) -> int:
    """Return the KV blocks without which a replica does not start.

    On a GPU with ``kv_blocks: auto`` those of one request of the greatest length.
    """
    if engine.kv_blocks == "auto" and device == "cuda":
        return -(-engine.max_model_len // engine.block_size)
    return engine.usual_kv_blocks


def check_fits(
    need: MemoryNeed,
    available: int,
    engine: EngineConfig,
    *,
    model: str,
    device: str,
    replicas: int = 1,
) -> None:
    """Refuse what does not fit, with every term and what would make it smaller.

    Args:
        need: of one replica.
        available: bytes that may still be taken on the device.
        engine: the configuration that ``need`` is of.
        model: its name, for the message.
        device: "cpu" or "cuda".
        replicas: how many share the memory.

    Raises:
        ConfigError: it does not fit.
    """
    total = need.total * replicas
    if total <= available:
        return
    dtype, blocks = engine.dtype_on(device), least_kv_blocks(engine, device)
    by_length = engine.kv_blocks == "auto" and device == "cuda"
    smaller = [
        f"a smaller engine.{'max_model_len' if by_length else 'kv_blocks'}",
        "a smaller adapters.memory_bytes",
    ]
    if device == "cpu":
        smaller.append("a smaller adapters.host_bytes")
    if dtype == "float32":
        smaller.insert(0, "engine.dtype bfloat16")
    if engine.quantize == "none" and device == "cpu":
        smaller.insert(0, "engine.quantize int8")
    if replicas > 1:
        smaller.insert(0, "fewer replicas")
    times = f" for each of {replicas} replicas" if replicas > 1 else ""
    terms = (
        f"weights {_gib(need.weights)} ({dtype}"
        f"{'' if engine.quantize == 'none' else f', {engine.quantize}'}), "
        f"packed copies {_gib(need.packed)}, "
        f"KV cache {_gib(need.kv_cache)} ({blocks} blocks), "
        f"adapters {_gib(need.adapters)}, steps {_gib(need.steps)}"
        f"{f', buffers of kernels and graphs {_gib(need.buffers)}' if need.buffers else ''}"
    )
    if need.loading > need.running:
        terms += f"; loading alone takes {_gib(need.loading)}"
    raise ConfigError(
        f"{model} does not fit: {_gib(total)} GiB are needed, {_gib(available)} GiB are available "
        f"on the {device}. In GiB{times}: {terms}. What helps: {', '.join(smaller)}. A replica "
        "lives on one device: tensor parallelism is not supported"
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"
