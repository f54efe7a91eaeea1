"""A model's decoder layers taken apart: their norms, products and sizes.

Only classes whose computation is known are taken apart, and `execution.model_runner` compares
the logits with those of the original modules before it uses what is built of the parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cluster.engine.model.lora_layers import GroupMember, ProjectionGroup, SingleProjection
from cluster.engine.model.norms import FusedRMSNorm
from cluster.engine.model.step_context import StepContext

FUSED_MODELS = frozenset(
    {
        "LlamaForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "MistralForCausalLM",
        "GemmaForCausalLM",
    }
)
"""transformers' classes with these semantics: two norms and two residuals per layer, rotary
embedding by halves, scaled dot products, a gated MLP."""

_QKV = ("q_proj", "k_proj", "v_proj")
_GATE_UP = ("gate_proj", "up_proj")
_SILU = ("SiLU", "SiLUActivation")  # torch's, transformers'


@dataclass(frozen=True, slots=True)
class LayerParts:
    """One decoder layer: two norms and two residuals around attention and a gated MLP."""

    index: int
    input_norm: FusedRMSNorm
    mlp_norm: FusedRMSNorm
    qkv: ProjectionGroup
    o: ProjectionGroup
    gate_up: ProjectionGroup
    down: ProjectionGroup
    q_norm: FusedRMSNorm | None  # of each head; both or neither
    k_norm: FusedRMSNorm | None
    activation: Callable[[torch.Tensor], torch.Tensor]
    silu: bool  # whether that is what ``activation`` is
    head_dim: int
    heads: int
    kv_heads: int
    scale: float
    window: int | None


def layer_parts(
    model: nn.Module, layers: nn.ModuleList, context: StepContext
) -> tuple[LayerParts, ...] | None:
    """Return the parts of a model whose projections and norms have been replaced; None if not
    known."""
    if type(model).__name__ not in FUSED_MODELS:
        return None
    if not all(_is_known(layer) for layer in layers):
        return None
    return tuple(_parts(layer, context, index) for index, layer in enumerate(layers))


def _parts(layer: Any, context: StepContext, index: int) -> LayerParts:
    attention, mlp = layer.self_attn, layer.mlp
    qkv, head_dim = _product(attention, *_QKV), attention.head_dim
    return LayerParts(
        index=index,
        input_norm=layer.input_layernorm,
        mlp_norm=layer.post_attention_layernorm,
        qkv=qkv,
        o=_product(attention, "o_proj"),
        gate_up=_product(mlp, *_GATE_UP),
        down=_product(mlp, "down_proj"),
        q_norm=getattr(attention, "q_norm", None),
        k_norm=getattr(attention, "k_norm", None),
        activation=mlp.act_fn,
        silu=type(mlp.act_fn).__name__ in _SILU,
        head_dim=head_dim,
        heads=qkv.sizes[0] // head_dim,
        kv_heads=qkv.sizes[1] // head_dim,
        scale=attention.scaling,
        window=context.effective_window(attention.attention_window),
    )


def _is_known(layer: nn.Module) -> bool:
    norms = ("input_layernorm", "post_attention_layernorm")
    if _children(layer) != {"self_attn", "mlp", *norms}:
        return False
    attention, mlp = layer.get_submodule("self_attn"), layer.get_submodule("mlp")
    head_norms = _children(attention) - {*_QKV, "o_proj"}
    return (
        head_norms in (set(), {"q_norm", "k_norm"})
        and _children(mlp) == {*_GATE_UP, "down_proj", "act_fn"}
        and all(isinstance(layer.get_submodule(name), FusedRMSNorm) for name in norms)
        and all(isinstance(attention.get_submodule(name), FusedRMSNorm) for name in head_norms)
        and _group(attention, *_QKV) is not None
        and _group(attention, "o_proj") is not None
        and _group(mlp, *_GATE_UP) is not None
        and _group(mlp, "down_proj") is not None
    )


def _children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _group(parent: nn.Module, *names: str) -> ProjectionGroup | None:
    """Return the group that computes exactly these projections, in this order."""
    modules = [parent.get_submodule(name) for name in names]
    groups = {m.group for m in modules if isinstance(m, GroupMember | SingleProjection)}
    members = [m.member for m in modules if isinstance(m, GroupMember)]
    if len(groups) != 1 or members != (list(range(len(names))) if len(names) > 1 else []):
        return None
    (group,) = groups
    return group if len(group.sizes) == len(names) else None


def _product(parent: nn.Module, *names: str) -> ProjectionGroup:
    group = _group(parent, *names)
    assert group is not None  # _is_known
    return group
