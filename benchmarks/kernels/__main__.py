"""``python -m benchmarks.kernels``: LoRA and attention relative to the base model's linears.

Every case is compared with its reference first; one disagreement and nothing is timed. Each figure
is for all layers of the model, as in one engine step.
"""

import argparse
import sys
import time
from collections.abc import Callable

import torch
from torch.nn.functional import linear

from benchmarks.kernels.data import fill_bank, make_cache
from benchmarks.kernels.kernel_correctness import check_attention, check_lora
from benchmarks.kernels.shapes import (
    ATTENTION_CASES,
    LORA_CASES,
    SMOLLM2_135M,
    AttentionCase,
    LoraCase,
)
from benchmarks.kernels.timing import measure
from kernels.attention.attention_batch import PagedBatch
from kernels.attention.paged import paged_attention, store_kv
from kernels.lora.lora_batch import LoraBatch
from kernels.lora.torch_ops import add_lora

_BLOCK_SIZE = 16
_CACHES = 8
"""Layers' caches that take turns, so that one layer's blocks are not warm from the last call."""


def _lora_step(case: LoraCase) -> tuple[Callable[[], object], Callable[[], object]]:
    """Compute all sites' LoRA, and build the batch."""
    sites = SMOLLM2_135M.sites()
    bank = fill_bank(sites, case.ranks)
    batch = LoraBatch.build(case.rows, bank)
    if batch is None:
        raise ValueError(f"{case.name}: no adapters")
    x = {site.in_features: torch.randn(case.tokens, site.in_features) for site in sites}
    y = {site.out_features: torch.zeros(case.tokens, site.out_features) for site in sites}

    def step() -> None:
        for index, site in enumerate(sites):
            add_lora(y[site.out_features], x[site.in_features], bank, index, batch)

    return step, lambda: LoraBatch.build(case.rows, bank)


def _base_step(tokens: int) -> Callable[[], object]:
    sites = SMOLLM2_135M.sites()
    weights = [torch.randn(site.out_features, site.in_features) for site in sites]
    x = {site.in_features: torch.randn(tokens, site.in_features) for site in sites}

    def step() -> None:
        for weight in weights:
            linear(x[weight.shape[1]], weight)

    return step


def _attention_step(case: AttentionCase) -> Callable[[], object]:
    model = SMOLLM2_135M
    made = [make_cache(model, case.rows, _BLOCK_SIZE) for _ in range(_CACHES)]
    contexts, counts = [c for c, _ in case.rows], [n for _, n in case.rows]
    batch = PagedBatch.build(made[0][1], contexts, counts, block_size=_BLOCK_SIZE)
    q = torch.randn(batch.tokens, model.heads, model.head_dim)
    k = torch.randn(batch.tokens, model.kv_heads, model.head_dim)

    def step() -> None:
        for layer in range(model.layers):
            cache = made[layer % _CACHES][0]
            store_kv(k, k, cache, batch)
            paged_attention(q, cache, batch, model.head_dim**-0.5)

    return step


def main(arguments: list[str] | None = None) -> int:
    """Check the kernels, then time them; returns 1 if a case disagrees with its reference."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.8, help="bound per timed case")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="CPU time of one thread instead of elapsed time: for a machine that others use",
    )
    options = parser.parse_args(arguments)
    threads = 1 if options.cpu_time else options.threads
    clock = time.thread_time if options.cpu_time else time.perf_counter
    torch.set_num_threads(threads)
    lora_cases = [case for case in LORA_CASES if options.only in case.name]
    attention_cases = [case for case in ATTENTION_CASES if options.only in case.name]
    try:
        for case in lora_cases:
            check_lora(case)
        for attention_case in attention_cases:
            check_attention(attention_case)
    except AssertionError as error:
        print(f"a case disagrees with its reference; nothing is timed\n{error}", file=sys.stderr)
        return 1

    def timed(call: Callable[[], object]) -> tuple[float, float]:
        timing = measure(call, clock=clock, seconds=options.seconds, repeats=50)
        return timing.median, timing.best

    kind = "CPU time" if options.cpu_time else "elapsed"
    print(f"{SMOLLM2_135M.name} fp32, threads: {threads}, ms per step, {kind}: median (best)\n")
    print(f"{'LoRA':42}{'linears':>18}{'LoRA':>18}{'of linears':>12}{'build':>8}")
    with torch.inference_mode():
        base = {tokens: timed(_base_step(tokens)) for tokens in {c.tokens for c in lora_cases}}
        for case in lora_cases:
            step, build = _lora_step(case)
            linears, lora, building = base[case.tokens], timed(step), timed(build)
            share = f"{lora[1] / linears[1]:.0%}"
            print(
                f"{case.name:42}{_both(linears):>18}{_both(lora):>18}{share:>12}{building[0]:8.2f}"
            )
        print(f"\n{'attention, context incl. storing':42}")
        for attention_case in attention_cases:
            print(f"{attention_case.name:42}{_both(timed(_attention_step(attention_case))):>18}")
    return 0


def _both(timing: tuple[float, float]) -> str:
    return f"{timing[0]:.1f} ({timing[1]:.1f})"


if __name__ == "__main__":
    sys.exit(main())
