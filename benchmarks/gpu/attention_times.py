"""Phase: paged attention of one layer, next to torch's over keys and values that already lie side
by side."""

from collections.abc import Callable, Sequence

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu.device_time import captured, device_us
from benchmarks.gpu.phase_run import PhaseRun
from kernels.attention.attention_triton_batch import TritonPagedBatch
from kernels.attention.attention_triton_dispatch import attention_operators
from kernels.attention.cache import LayerKVCache

_BLOCK = 16
_LAYERS = 4
"""Caches that take turns."""
_DECODES = ((1, 512), (1, 8192), (16, 512), (64, 512), (64, 4096), (256, 512), (256, 2048))
"""Rows, and the context of each."""
_PROMPTS = ((1, 512, 0), (1, 2048, 0), (1, 8192, 0), (4, 2048, 0), (1, 512, 8192))
"""Rows, and new tokens and context of each."""


class AttentionTimes:
    """Caches of one shape, and both ways to attend over them."""

    def __init__(self, run: PhaseRun) -> None:
        self._run = run
        self._dtype = torch.float32 if run.is_rehearsal else torch.bfloat16
        self._layers = 1 if run.is_rehearsal else _LAYERS
        self._longest = 64 if run.is_rehearsal else 16384
        self._store, self._attend = attention_operators()

    def decode(self, rows: int, context: int) -> None:
        """Record a step of one token for each row, storing included."""
        size, device = self._run.size, self._run.device
        caches, batch = self._caches(rows, 1, context)
        fused = self._random(rows, size.heads + 2 * size.kv_heads, size.head_dim)
        scale = size.head_dim**-0.5

        def own() -> None:
            for cache in caches:
                self._store(fused[:, size.heads :], cache, batch)
                self._attend(fused[:, : size.heads], cache, batch, scale, None)

        queries = fused[:, : size.heads].unsqueeze(2)
        flat = [
            self._random(2, rows, size.kv_heads, context, size.head_dim)
            for _ in range(self._layers)
        ]

        def theirs() -> None:
            for k, v in flat:
                scaled_dot_product_attention(queries, k, v, scale=scale, enable_gqa=True)

        us = device_us(captured(own, device), device, 0.15) / self._layers
        nbytes = rows * context * 2 * size.kv_heads * size.head_dim * self._dtype.itemsize
        self._run.record(
            "attention decode",
            rows=rows,
            context=context,
            us=us,
            torch_us=device_us(captured(theirs, device), device, 0.15) / self._layers,
            tb_per_s=nbytes / us / 1e6,
        )

    def prompt(self, rows: int, new: int, context: int) -> None:
        """Record a step of several tokens for each row."""
        size, device = self._run.size, self._run.device
        caches, batch = self._caches(rows, new, context)
        queries = self._random(rows * new, size.heads, size.head_dim)
        scale = size.head_dim**-0.5

        def own() -> None:
            for cache in caches:
                self._attend(queries, cache, batch, scale, None)

        length = context + new
        q = self._random(rows, size.heads, new, size.head_dim)
        k, v = (self._random(rows, size.kv_heads, length, size.head_dim) for _ in range(2))
        bias = causal_lower_right(new, length) if context else None

        def theirs() -> None:
            scaled_dot_product_attention(
                q, k, v, attn_mask=bias, is_causal=bias is None, enable_gqa=True
            )

        places = batch.block_tables[:rows, : -(-length // _BLOCK)].reshape(-1).long()
        ends = torch.arange(rows + 1, dtype=torch.int32, device=device)

        def gathered() -> None:
            for cache in caches:
                flat = cache.kv.index_select(0, places).view(rows, -1, *cache.kv.shape[2:])
                pairs = flat[:, :length].flatten(0, 1)
                varlen_attn(
                    queries,
                    pairs[:, : size.kv_heads],
                    pairs[:, size.kv_heads :],
                    ends * new,
                    ends * length,
                    new,
                    length,
                    window_size=(-1, 0),
                    enable_gqa=True,
                )

        us = device_us(captured(own, device), device, 0.2) / self._layers
        flops = 4 * rows * size.heads * size.head_dim * (new * context + new * (new + 1) / 2)
        self._run.record(
            "attention prompt",
            rows=rows,
            new=new,
            context=context,
            us=us,
            torch_us=device_us(captured(theirs, device), device, 0.2),
            gathered_us=self._try(gathered),
            tflops=flops / us / 1e6,
        )

    def _try(self, call: Callable[[], None]) -> float | None:
        """Return the microseconds of a layer, or None if torch has no kernel for it."""
        try:
            return device_us(captured(call, self._run.device), self._run.device) / self._layers
        except RuntimeError as error:
            self._run.record("problem", text=f"varlen_attn: {str(error).splitlines()[0][:120]}")
            return None

    def _random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, device=self._run.device).to(self._dtype)

    def _caches(
        self, rows: int, new: int, context: int
    ) -> tuple[list[LayerKVCache], TritonPagedBatch]:
        size, each = self._run.size, -(-(context + new) // _BLOCK)
        caches = []
        for _ in range(self._layers):
            cache = LayerKVCache.allocate(
                rows * each,
                _BLOCK,
                size.kv_heads,
                size.head_dim,
                dtype=self._dtype,
                device=self._run.device,
            )
            cache.kv.normal_()
            caches.append(cache)
        batch = TritonPagedBatch(
            max_tokens=rows * new,
            max_rows=rows,
            max_len=self._longest,
            block_size=_BLOCK,
            device=self._run.device,
        )
        order = torch.randperm(rows * each).tolist()
        tables = [order[row * each : (row + 1) * each] for row in range(rows)]
        batch.update(tables, [context] * rows, [new] * rows)
        return caches, batch


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the phase."""
    run = PhaseRun.of(arguments)
    torch.manual_seed(0)
    times = AttentionTimes(run)
    with torch.inference_mode():
        for rows, new, context in ((1, 24, 0),) if run.is_rehearsal else _PROMPTS:
            if run.is_late():
                return
            times.prompt(rows, new, context)
        for rows, context in ((2, 20),) if run.is_rehearsal else _DECODES:
            if run.is_late():
                return
            times.decode(rows, context)


if __name__ == "__main__":
    main()
