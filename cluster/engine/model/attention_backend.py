"""Paged attention behind transformers' attention interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from cluster.engine.model.step_context import StepContext
from cluster.errors import EngineError, ModelSourceError
from kernels.attention.paged import paged_attention, store_kv

ATTENTION_NAME = "braid_paged"
"""Value of ``attn_implementation``; transformers makes no mask for names it does not know."""

_IGNORED = frozenset(
    {"dropout", "is_causal", "position_ids", "use_cache", "output_attentions", "cache_position"}
)
"""Keyword arguments that say nothing the step does not know already."""


def attach_attention(
    module: nn.Module, context: StepContext, window: int | None
) -> tuple[int, int]:
    """Give an attention module the step context; returns its (key/value heads, head size).

    Args:
        module: what passes itself to the attention interface.
        context: of its model.
        window: positions a token of this layer should see, itself included; None: all.

    Raises:
        ModelSourceError: the module does not say its head size or key/value heads.
    """
    config = getattr(module, "config", None)
    head_dim = getattr(module, "head_dim", None)
    kv_heads = getattr(module, "num_key_value_heads", getattr(config, "num_key_value_heads", None))
    if not isinstance(head_dim, int) or not isinstance(kv_heads, int):
        raise ModelSourceError(
            f"{type(module).__name__}: head_dim {head_dim} and num_key_value_heads {kv_heads}, "
            "expected two numbers"
        )
    module.step_context = context  # type: ignore[assignment]
    module.attention_window = window  # type: ignore[assignment]
    return kv_heads, head_dim


def paged_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Store the step's keys and values, and attend to the whole of each sequence.

    Args:
        module: the attention module, prepared by `attach_attention`.
        query: [1, heads, T, head size], the step's tokens packed one after another.
        key: [1, key/value heads, T, head size]; ``value`` likewise.
        attention_mask: None; the step context knows what each token sees.
        scaling: of the scores.
        sliding_window: positions a token sees, itself included; None: all.
        options: refused unless they change nothing.

    Returns:
        [1, T, heads, head size], and None for the attention weights.

    Raises:
        EngineError: outside a step, or for what paged attention does not compute.
    """
    context: StepContext = module.step_context  # type: ignore[assignment]
    batch = context.attention
    if batch is None:
        raise EngineError("the model was called outside of an engine step")
    if attention_mask is not None or sliding_window != module.attention_window:
        raise EngineError(
            f"{type(module).__name__} asks for a window of {sliding_window} tokens, "
            f"its configuration for {module.attention_window}"
        )
    for name, option in options.items():
        if option is not None and name not in _IGNORED:
            raise EngineError(f"{type(module).__name__} asks for {name}, which is not supported")
    cache = context.kv_caches[module.layer_idx]  # type: ignore[index]
    q = query[0].transpose(0, 1).contiguous()
    k, v = key[0].transpose(0, 1), value[0].transpose(0, 1)
    store_kv(k, v, cache, batch)
    window = context.effective_window(sliding_window)
    return paged_attention(q, cache, batch, scaling, window)[None], None


AttentionInterface.register(ATTENTION_NAME, paged_attention_forward)
