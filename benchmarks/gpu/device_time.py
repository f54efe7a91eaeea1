"""Time of a call by the device's own clock, and calls as CUDA graphs."""

import time
from collections.abc import Callable
from statistics import median

import torch

_LEAST, _MOST = 5, 200
"""Calls that are timed, whatever the time."""


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def captured(call: Callable[[], object], device: str) -> Callable[[], object]:
    """Return the call as a CUDA graph, after warm-ups; the call itself on a CPU."""
    if device != "cuda":
        return call
    for _ in range(2):
        call()
    synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def device_us(call: Callable[[], object], device: str, seconds: float = 0.25) -> float:
    """Return the median microseconds of a call; on a CPU, of a single one that is only a
    rehearsal."""
    call()
    synchronize(device)
    if device != "cuda":
        began = time.perf_counter()
        call()
        return (time.perf_counter() - began) * 1e6
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < _LEAST or (time.perf_counter() < until and len(taken) < _MOST):
        begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        begin.record()
        call()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) * 1e3)
    return median(taken)
