"""The decoder of Llama-like models as straight-line tensor operations.

transformers' modules compute a layer in about thirty small operations and as many Python calls,
which at a few rows per step cost as much as the products. Here a layer works on the packed rows
[T, hidden] in place: one rotary embedding over the query and key heads, keys and values stored
where the fused product wrote them, residuals and gates without copies.

Only classes whose computation is known are taken over, and `cluster.engine.model_runner` compares
the logits with those of the original modules before it uses them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cluster.engine.lora_layers import GroupMember, ProjectionGroup, SingleProjection
from cluster.engine.norms import FusedRMSNorm
from cluster.engine.step_context import StepContext
from kernels.attention.paged import paged_attention
from kernels.elementwise.ops import rotate_and_store, silu_gate

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

Rotary = tuple[torch.Tensor, torch.Tensor]
"""cos and sin, [T, D]."""


class FusedDecoder:
    """From token ids to the logits of the rows asked for."""

    def __init__(self, model: Any, layers: list[_FusedLayer]) -> None:
        self._embed: Callable[[torch.Tensor], torch.Tensor] = model.model.embed_tokens
        self._rotary: Callable[[torch.Tensor, torch.Tensor], Rotary] = model.model.rotary_emb
        self._norm: Callable[[torch.Tensor], torch.Tensor] = model.model.norm
        self._head: Callable[[torch.Tensor], torch.Tensor] = model.lm_head
        self._layers = layers

    def __call__(
        self, token_ids: torch.Tensor, position_ids: torch.Tensor, rows: torch.Tensor | None
    ) -> torch.Tensor:
        """Logits [rows, vocabulary] of a step whose tokens are packed.

        Args:
            token_ids: [T] int64; ``position_ids`` likewise.
            rows: [rows] int64, tokens whose logits are wanted; None: all.
        """
        x = self.hidden(token_ids, position_ids)
        if rows is not None:
            x = x.index_select(0, rows)
        return self._head(self._norm(x))

    def hidden(self, token_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """The residual stream [T, hidden] after the last layer."""
        x = self._embed(token_ids)
        cos, sin = self._rotary(x, position_ids[None])
        rotary = (cos[0].contiguous(), sin[0].contiguous())
        for layer in self._layers:
            layer(x, rotary)
        return x


class _FusedLayer:
    """One decoder layer, in place on the residual stream."""

    def __init__(self, layer: Any, context: StepContext, index: int) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        qkv = _product(attention, *_QKV)
        self._context = context
        self._index = index
        self._input_norm: FusedRMSNorm = layer.input_layernorm
        self._mlp_norm: FusedRMSNorm = layer.post_attention_layernorm
        self._qkv = qkv.compute
        self._o = _product(attention, "o_proj").compute
        self._gate_up = _product(mlp, *_GATE_UP).compute
        self._down = _product(mlp, "down_proj").compute
        self._q_norm: FusedRMSNorm | None = getattr(attention, "q_norm", None)
        self._k_norm: FusedRMSNorm | None = getattr(attention, "k_norm", None)
        self._activation: Callable[[torch.Tensor], torch.Tensor] = mlp.act_fn
        self._silu = type(mlp.act_fn).__name__ in _SILU
        self._head_dim: int = attention.head_dim
        self._heads = qkv.sizes[0] // self._head_dim
        self._kv_heads = qkv.sizes[1] // self._head_dim
        self._scale: float = attention.scaling
        self._window = context.effective_window(attention.attention_window)

    def __call__(self, x: torch.Tensor, rotary: Rotary) -> None:
        fusion = self._context.fusion
        if fusion is not None:
            fusion.enter(self._index, x)
        x.add_(self._attend(self._input_norm.forward(x), rotary))
        gate_up = self._gate_up(self._mlp_norm.forward(x))
        if self._silu:
            gated = silu_gate(gate_up)
        else:
            gate, up = gate_up.chunk(2, dim=-1)
            gated = torch.mul(self._activation(gate), up)
        x.add_(self._down(gated))

    def _attend(self, x: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        context, heads = self._context, self._heads
        batch = context.attention
        assert batch is not None
        rotated = heads + self._kv_heads
        qkv = self._qkv(x).view(x.shape[0], -1, self._head_dim)
        qk = qkv.narrow(1, 0, rotated)
        if self._q_norm is not None and self._k_norm is not None:
            q, k = qk.narrow(1, 0, heads), qk.narrow(1, heads, self._kv_heads)
            q.copy_(self._q_norm.forward(q))
            k.copy_(self._k_norm.forward(k))
        cache = context.kv_caches[self._index]
        rotate_and_store(qkv, *rotary, heads, cache, batch)
        attended = paged_attention(qkv.narrow(1, 0, heads), cache, batch, self._scale, self._window)
        return self._o(attended.reshape(x.shape[0], -1))


def fuse_decoder(
    model: nn.Module, layers: nn.ModuleList, context: StepContext
) -> FusedDecoder | None:
    """The straight-line form of a model whose modules have been replaced; None when not known."""
    if type(model).__name__ not in FUSED_MODELS:
        return None
    if not all(_is_known(layer) for layer in layers):
        return None
    return FusedDecoder(
        model, [_FusedLayer(layer, context, index) for index, layer in enumerate(layers)]
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
    """The group that computes exactly these projections, in this order."""
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
