"""Peaks of the machine: products per second, and bytes read per second."""

import time
from collections.abc import Callable, Sequence

import torch

GEMM_SHAPES: tuple[tuple[int, int, int], ...] = (
    (512, 3072, 576),
    (512, 1536, 1536),
    (512, 2048, 2048),
    (1024, 4096, 4096),
)
"""Large products, some of them a small model's own."""


def gemm_peak(
    dtype: torch.dtype, seconds: float, shapes: Sequence[tuple[int, int, int]] = GEMM_SHAPES
) -> float:
    """Measure the FLOP/s of the fastest of a few large products, with this thread's thread count.

    Floating-point weights are laid out for oneDNN beforehand if it is available. int8 is the plain
    product of int8 matrices into int32.

    Args:
        dtype: of both operands.
        seconds: bound on the time for each shape.
        shapes: (m, n, k) of y [m, n] = x [m, k] W^T [k, n].
    """
    best = 0.0
    for m, n, k in shapes:
        for product in _products(dtype, m, n, k):
            best = max(best, 2 * m * n * k / _fastest(product, seconds))
    return best


def read_bandwidth(seconds: float, nbytes: int) -> float:
    """Measure the bytes/s of the faster of two passes over a large fp32 buffer: its sum, and its
    product with a vector, which is what a decode step of one request does with every weight.

    Args:
        seconds: bound on the time for each way.
        nbytes: of the buffer, a multiple of 16 KiB, beyond any cache.
    """
    buffer = torch.ones(nbytes // 4)
    rows, vector = buffer.view(-1, 4096), torch.ones(4096)
    ways: tuple[Callable[[], object], ...] = (buffer.sum, lambda: rows @ vector)
    return max(buffer.nbytes / _fastest(way, seconds) for way in ways)


def _products(dtype: torch.dtype, m: int, n: int, k: int) -> list[Callable[[], object]]:
    if dtype == torch.int8:
        a = torch.randint(-127, 128, (m, k), dtype=torch.int8)
        b = torch.randint(-127, 128, (k, n), dtype=torch.int8)
        return [lambda: torch._int_mm(a, b)]
    x, weight = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    products: list[Callable[[], object]] = [lambda: torch.nn.functional.linear(x, weight)]
    if hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and dtype != torch.float16:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, m)
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""))
    return products


def _fastest(call: Callable[[], object], seconds: float) -> float:
    call()
    best = float("inf")
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best
