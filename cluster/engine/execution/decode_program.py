"""Decode steps of a CPU as programs of native kernels: one call for all layers.

A program is built per number of rows, without adapters, with them, and with some that have LoRA on
the output head. It computes on buffers whose addresses do not change; what differs from step to
step, the rows' tables and their adapters, is copied to words that its operations point to. A gate
that weighs adapters layer by layer is asked between two parts of it. Prompts and mixed steps go
operation by operation (`cluster.engine.execution.fused_decoder`), with the same kernels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from cluster.engine.execution.decode_buffers import StepBuffers
from cluster.engine.execution.decoder_parts import LayerParts
from cluster.engine.model.lora_layers import HeadProjection, ProjectionGroup
from cluster.engine.model.norms import FusedRMSNorm
from cluster.engine.model.products import NativeProduct
from cluster.engine.model.step_context import LayerMixing, StepContext
from kernels.attention import attention_native as attention
from kernels.attention.attention_batch import PagedBatch
from kernels.elementwise.operations import (
    norm_call,
    norm_heads_call,
    rotate_and_store_call,
    silu_gate_call,
)
from kernels.lora import lora_native as lora
from kernels.lora.lora_batch import LoraBatch
from kernels.native.compiler import openmp
from kernels.native.program import Operation, Program

_LEAST_ROWS = 16
"""Rows that buffers are made for at least."""


class DecodeProgram:
    """The steps of one model that are a token of each row."""

    @staticmethod
    def of(
        layers: Sequence[LayerParts], norm: Any, head: Any, context: StepContext
    ) -> DecodeProgram | None:
        """Build the program of a decoder's parts, or return None if native kernels cannot compute
        them all.

        Args:
            layers: from the first to the last, at least one.
            norm: after the last layer.
            head: of the logits, a `cluster.engine.model.lora_layers.HeadProjection`.
            context: of the model, with its caches.
        """
        products = [g.product for p in layers for g in (p.qkv, p.o, p.gate_up, p.down)]
        products.append(getattr(head, "product", None))  # type: ignore[arg-type]
        norms = [norm, *(n for p in layers for n in (p.input_norm, p.mlp_norm))]
        head_norms = (n for p in layers for n in (p.q_norm, p.k_norm) if n is not None)
        if (
            openmp() is None
            or not all(parts.silu for parts in layers)
            or not all(isinstance(product, NativeProduct) for product in products)
            or not all(isinstance(n, FusedRMSNorm) and n.native for n in (*norms, *head_norms))
            or any(cache.kv.dtype != torch.float32 for cache in context.kv_caches)
            or len({(parts.heads, parts.kv_heads, parts.head_dim) for parts in layers}) != 1
        ):
            return None
        return DecodeProgram(layers, norm, head, context)

    def __init__(
        self,
        layers: Sequence[LayerParts],
        norm: FusedRMSNorm,
        head: HeadProjection,
        context: StepContext,
    ) -> None:
        self._layers, self._norm = layers, norm
        self._head_product, self._head_site = _native(head), head.site
        self._context = context
        self._programs: dict[tuple[int, bool, bool, int], Program] = {}
        self._buffers: StepBuffers | None = None
        self._lora_step = (ctypes.c_int64 * lora.STEP_WORDS)()
        self._sites = [g.site for p in layers for g in (p.qkv, p.o, p.gate_up, p.down)]
        self._weighing = torch.zeros((head.site + 1, lora.WEIGHT_WORDS), dtype=torch.int64)
        self._weighed: LayerMixing | None = None  # whose weights that is
        self._attention_steps = {
            parts.window: (ctypes.c_int64 * attention.STEP_WORDS)() for parts in layers
        }
        self._scales = {parts.scale: torch.tensor([parts.scale]) for parts in layers}

    def takes(self) -> bool:
        """Return whether the context's step is one: all rows decode, and their adapters, if any,
        are those that the native kernel adds, with weights that are known when a layer is entered.
        """
        context = self._context
        batch, adapters = context.attention, context.lora
        if not isinstance(batch, PagedBatch):
            return False
        if adapters is not None and not (
            isinstance(adapters, LoraBatch) and adapters.native is not None
        ):
            return False
        if context.head is not None and context.head is not adapters:
            return False
        if context.mixing is not None and not self._weigh(context.mixing):
            return False
        plans = (batch.plan(window) for window in self._attention_steps)
        return all(plan.native is not None and not plan.prefill for plan in plans)

    def run(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Return the logits of a step that the program ``takes``, valid until the next call.

        Args:
            x: [T, hidden], the tokens' embeddings.
            cos: [T, D]; ``sin`` likewise.

        Returns:
            [T, vocabulary].
        """
        context, rows, threads = self._context, x.shape[0], torch.get_num_threads()
        batch, adapters = context.attention, context.lora
        assert isinstance(batch, PagedBatch)
        buffers = self._buffers
        if buffers is None or buffers.rows < rows or buffers.threads < threads:
            buffers = self._buffers = self._allocate(rows, threads)
            self._programs.clear()
        buffers.x[:rows].copy_(x)
        buffers.cos[:rows].copy_(cos)
        buffers.sin[:rows].copy_(sin)
        buffers.kv_indices[:rows].copy_(batch.kv_indices)
        heads, kv_heads = self._layers[0].heads, self._layers[0].kv_heads
        for window, words in self._attention_steps.items():
            decode = batch.plan(window).native
            assert decode is not None
            _copy(words, decode.step(heads, kv_heads, threads))
        if adapters is not None:
            assert isinstance(adapters, LoraBatch)
            assert adapters.native is not None
            _copy(self._lora_step, adapters.native.step)
            if context.mixing is None:
                self._weighing[:] = torch.tensor(lora.weight_words(adapters.weights))
                self._weighed = None
            elif context.head is not None:
                weights = lora.weight_words(adapters.weights)
                self._weighing[self._head_site] = torch.tensor(weights)
        with_adapters, with_head = adapters is not None, context.head is not None
        key = rows, with_adapters, with_head, threads
        program = self._programs.get(key)
        if program is None:
            program = self._program(buffers, rows, with_adapters, with_head)
            self._programs[key] = program
        mixing = context.mixing
        if mixing is not None and mixing.changes:
            stream = buffers.x[:rows]
            program.run(threads, lambda layer: mixing.enter(layer, stream))
        else:
            program.run(threads)
        return buffers.logits[:rows]

    def _weigh(self, mixing: LayerMixing) -> bool:
        """Point the sites' calls to a step's weights; False if these come too late."""
        if self._weighed is mixing:
            return True
        views = [mixing.view(site) for site in self._sites]
        for site, view in zip(self._sites, views, strict=True):
            if view is None:
                return False
            self._weighing[site] = torch.tensor(lora.weight_words(view))
        self._weighed = mixing
        return True

    def _allocate(self, rows: int, threads: int) -> StepBuffers:
        parts = self._layers[0]
        room = max(_LEAST_ROWS, 1 << (rows - 1).bit_length())
        hidden, qkv, o, gate_up, down, vocabulary = (
            torch.empty((room, product.out_features))
            for product in (
                _native(parts.down),
                _native(parts.qkv),
                _native(parts.o),
                _native(parts.gate_up),
                _native(parts.down),
                self._head_product,
            )
        )
        scratch = max(product.scratch_bytes(room, threads) for product in self._products())
        return StepBuffers(
            rows=room,
            threads=threads,
            x=hidden,
            normed=torch.empty_like(hidden),
            qkv=qkv,
            attended=torch.empty((room, _native(parts.o).in_features)),
            o=o,
            gate_up=gate_up,
            gated=torch.empty((room, _native(parts.down).in_features)),
            down=down,
            logits=vocabulary,
            cos=torch.empty((room, parts.head_dim)),
            sin=torch.empty((room, parts.head_dim)),
            kv_indices=torch.empty(room, dtype=torch.int64),
            scratch=torch.empty(scratch, dtype=torch.int8),
        )

    def _products(self) -> Iterator[NativeProduct]:
        for parts in self._layers:
            yield from map(_native, (parts.qkv, parts.o, parts.gate_up, parts.down))
        yield self._head_product

    def _program(self, buffers: StepBuffers, rows: int, adapters: bool, head: bool) -> Program:
        """Build one that can be interrupted where a layer is entered, its input complete."""
        operations: list[Operation] = []
        cuts = []
        addend = None  # what the residual stream has yet to take
        for parts in self._layers:
            norm = parts.input_norm
            operations.append(
                norm_call(buffers.x, norm.weight, norm.eps_value, buffers.normed, rows, addend)
            )
            cuts.append(len(operations))
            operations += self._layer(parts, buffers, rows, adapters)
            addend = buffers.down
        norm = self._norm
        operations.append(
            norm_call(buffers.x, norm.weight, norm.eps_value, buffers.normed, rows, addend)
        )
        normed, logits = buffers.normed, buffers.logits
        operations.append(self._product(self._head_product, normed, logits, rows))
        if head:
            operations += self._adapt(self._head_site, normed, logits)
        return Program(operations, cuts)

    def _layer(
        self, parts: LayerParts, buffers: StepBuffers, rows: int, adapters: bool
    ) -> Iterator[Operation]:
        """Yield the operations from the normed input to what the residual stream is to take."""
        yield from self._project(parts.qkv, buffers.normed, buffers.qkv, rows, adapters)
        yield from self._attend(parts, buffers, rows)
        yield from self._project(parts.o, buffers.attended, buffers.o, rows, adapters)
        norm = parts.mlp_norm
        yield norm_call(buffers.x, norm.weight, norm.eps_value, buffers.normed, rows, buffers.o)
        yield from self._project(parts.gate_up, buffers.normed, buffers.gate_up, rows, adapters)
        yield silu_gate_call(buffers.gate_up, buffers.gated, rows)
        yield from self._project(parts.down, buffers.gated, buffers.down, rows, adapters)

    def _project(
        self, group: ProjectionGroup, x: torch.Tensor, y: torch.Tensor, rows: int, adapters: bool
    ) -> Iterator[Operation]:
        yield self._product(_native(group), x, y, rows)
        if adapters:
            yield from self._adapt(group.site, x, y)

    def _adapt(self, site: int, x: torch.Tensor, y: torch.Tensor) -> Iterator[Operation]:
        step = ctypes.addressof(self._lora_step)
        weighing = self._weighing[site].data_ptr()
        source, target = (x.data_ptr(), x.stride(0)), (y.data_ptr(), y.stride(0))
        for phase in range(lora.PHASES):
            yield lora.site_call(step, weighing, source, target, site, phase)

    def _product(
        self, product: NativeProduct, x: torch.Tensor, y: torch.Tensor, rows: int
    ) -> Operation:
        assert self._buffers is not None
        return product.operation(x.data_ptr(), y.data_ptr(), rows, self._buffers.scratch.data_ptr())

    def _attend(self, parts: LayerParts, buffers: StepBuffers, rows: int) -> Iterator[Operation]:
        qkv, heads, cache = buffers.qkv, parts.heads, self._context.kv_caches[parts.index]
        if parts.q_norm is not None and parts.k_norm is not None:
            for norm, first, count in (
                (parts.q_norm, 0, heads),
                (parts.k_norm, heads, parts.kv_heads),
            ):
                yield norm_heads_call(qkv, norm.weight, norm.eps_value, rows, first, count)
        yield rotate_and_store_call(
            qkv, buffers.cos, buffers.sin, heads, cache, buffers.kv_indices, rows
        )
        yield attention.layer_call(
            ctypes.addressof(self._attention_steps[parts.window]),
            (qkv.data_ptr(), qkv.stride(0)),
            buffers.attended.data_ptr(),
            heads,
            cache,
            self._scales[parts.scale],
        )


def _native(group: ProjectionGroup | HeadProjection) -> NativeProduct:
    product = group.product
    assert isinstance(product, NativeProduct)  # DecodeProgram.of
    return product


def _copy(to: ctypes.Array[ctypes.c_int64], source: ctypes.Array[ctypes.c_int64]) -> None:
    ctypes.memmove(to, source, ctypes.sizeof(to))
