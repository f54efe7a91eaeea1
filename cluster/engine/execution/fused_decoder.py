"""The decoder of Llama-like models as straight-line tensor operations.

transformers' modules compute a layer in about thirty small operations and as many Python calls,
which at a few rows per step cost as much as the products. Here a layer works on the packed rows
[T, hidden] in place: one rotary embedding over the query and key heads, keys and values stored
where the fused product wrote them, residuals and gates without copies. Where the CPU's native
kernels compute all of it, a decode step is one program of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from cluster.engine.execution.decode_program import DecodeProgram
from cluster.engine.execution.decoder_parts import LayerParts, layer_parts
from cluster.engine.model.step_context import StepContext
from kernels.attention.paged import paged_attention
from kernels.elementwise.ops import rotate_and_store, silu_gate

Rotary = tuple[torch.Tensor, torch.Tensor]
"""cos and sin, [T, D]."""


class FusedDecoder:
    """Computes the logits of the rows asked for from token ids."""

    def __init__(self, model: Any, layers: Sequence[LayerParts], context: StepContext) -> None:
        self._embed: Callable[[torch.Tensor], torch.Tensor] = model.model.embed_tokens
        self._rotary: Callable[[torch.Tensor, torch.Tensor], Rotary] = model.model.rotary_emb
        self._norm: Callable[[torch.Tensor], torch.Tensor] = model.model.norm
        self._head: Callable[[torch.Tensor], torch.Tensor] = model.lm_head
        self._layers = [_FusedLayer(parts, context) for parts in layers]
        self._program = DecodeProgram.of(layers, model.model.norm, model.lm_head, context)

    def __call__(
        self, token_ids: torch.Tensor, position_ids: torch.Tensor, rows: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the logits [rows, vocabulary] of a step whose tokens are packed.

        Args:
            token_ids: [T] int64; ``position_ids`` likewise.
            rows: [rows] int64, tokens whose logits are wanted; None: all.

        Returns:
            Valid until the next call.
        """
        if rows is None and self._program is not None and self._program.takes():
            x = self._embed(token_ids)
            cos, sin = self._rotary(x, position_ids[None])
            return self._program.run(x, cos[0], sin[0])
        x = self.hidden(token_ids, position_ids)
        if rows is not None:
            x = x.index_select(0, rows)
        return self._head(self._norm(x))

    def hidden(self, token_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Return the residual stream [T, hidden] after the last layer."""
        x = self._embed(token_ids)
        cos, sin = self._rotary(x, position_ids[None])
        rotary = (cos[0].contiguous(), sin[0].contiguous())
        for layer in self._layers:
            layer(x, rotary)
        return x


class _FusedLayer:
    """One decoder layer, in place on the residual stream."""

    def __init__(self, parts: LayerParts, context: StepContext) -> None:
        self._context = context
        self._index = parts.index
        self._input_norm = parts.input_norm
        self._mlp_norm = parts.mlp_norm
        self._qkv = parts.qkv.compute
        self._o = parts.o.compute
        self._gate_up = parts.gate_up.compute
        self._down = parts.down.compute
        self._q_norm = parts.q_norm
        self._k_norm = parts.k_norm
        self._activation = parts.activation
        self._silu = parts.silu
        self._head_dim = parts.head_dim
        self._heads = parts.heads
        self._kv_heads = parts.kv_heads
        self._scale = parts.scale
        self._window = parts.window

    def __call__(self, x: torch.Tensor, rotary: Rotary) -> None:
        mixing = self._context.mixing
        if mixing is not None:
            mixing.enter(self._index, x)
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
    """Return the straight-line form of a model with replaced modules; None if not known."""
    parts = layer_parts(model, layers, context)
    return None if parts is None else FusedDecoder(model, parts, context)
