"""Cost of rounding the base model's weights: perplexity of a fixed text, and time of a step.

The text is the project's own (`text.txt`): prose, dialogue, code, JSON, sums. The engine's own
runner computes it, in windows that each start afresh, so every product, norm and attention is the
one that serves requests.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from transformers import AutoTokenizer

from benchmarks.shared.machine import cpu_info, load_average, torch_build
from cluster.config import EngineConfig
from cluster.engine.execution.model_runner import ModelRunner
from cluster.engine.model.model_loader import load_model
from kernels.attention.attention_batch import PagedBatch
from kernels.lora.bank import AdapterBank

TEXT = Path(__file__).with_name("text.txt")
WINDOW = 256
"""Tokens that see each other; the first of a window is not scored."""

BLOCK = 16
CONTEXT = 64
"""Tokens before the one that a timed step computes, for each of its rows."""

BATCHES = (1, 16)

VARIANTS: dict[str, tuple[str, str]] = {
    "float32": ("float32", "none"),
    "int8": ("float32", "int8"),
    "bfloat16": ("bfloat16", "none"),
}
"""Formats that can be compared: name -> (dtype, quantize)."""


class VariantResult(BaseModel):
    """One way of holding the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    perplexity: float
    change: float  # relative to the first variant's perplexity
    step_ms: dict[int, float]  # by batch: median over the rounds
    speedup: dict[int, float]  # by batch: median of the rounds' own ratios to the first variant


class PerplexityReport(BaseModel):
    """A whole comparison."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    tokens: int  # scored
    window: int
    threads: int
    rounds: int
    cpu: str
    isa: tuple[str, ...]
    torch: str
    load_before: float
    load_after: float
    variants: tuple[VariantResult, ...]


class _Variant:
    """The engine's model and runner, without an engine around them."""

    def __init__(self, model: Path, name: str) -> None:
        dtype, quantize = VARIANTS[name]
        config = EngineConfig.model_validate(
            {
                "dtype": dtype,
                "quantize": quantize,
                "device": "cpu",
                "block_size": BLOCK,
                "kv_blocks": max(BATCHES) * (CONTEXT // BLOCK + 1) + WINDOW // BLOCK,
            }
        )
        loaded = load_model(model, config)
        bank = AdapterBank(loaded.sites, 1, 1, dtype=loaded.dtype, device=loaded.device)
        self._runner = ModelRunner(loaded, config, bank)
        self._dtype = loaded.dtype
        self.vocab_size = loaded.vocab_size
        self.window = min(WINDOW, loaded.max_model_len)

    def log_likelihood(self, tokens: Sequence[int]) -> float:
        """Compute the log-likelihood of all tokens but the first, in nats."""
        batch = self._batch([list(range(-(-len(tokens) // BLOCK)))], [0], [len(tokens) - 1])
        rows = list(range(len(tokens) - 1))
        logits = self._runner._forward(list(tokens[:-1]), rows, rows, batch, None)
        assert logits is not None  # every row is asked for
        logprobs = logits.double().log_softmax(-1)
        return float(logprobs.gather(1, torch.tensor(tokens[1:])[:, None]).sum())

    def step(self, rows: int) -> None:
        """Decode one token in each of ``rows`` sequences."""
        blocks = CONTEXT // BLOCK + 1
        tables = [list(range(row * blocks, (row + 1) * blocks)) for row in range(rows)]
        batch = self._batch(tables, [CONTEXT] * rows, [1] * rows)
        tokens = [row % self.vocab_size for row in range(rows)]
        self._runner._forward(tokens, [CONTEXT] * rows, list(range(rows)), batch, None)

    def _batch(self, tables: list[list[int]], contexts: list[int], counts: list[int]) -> PagedBatch:
        return PagedBatch.build(
            tables,
            contexts,
            counts,
            block_size=BLOCK,
            dtype=self._dtype,
            device=torch.device("cpu"),
        )


def perplexity(
    score: Callable[[Sequence[int]], float], tokens: Sequence[int], window: int
) -> float:
    """Compute exp of the mean negative log-likelihood; neighbouring windows share one token."""
    total, scored = 0.0, 0
    for start in range(0, len(tokens) - 1, window - 1):
        part = tokens[start : start + window]
        total += score(part)
        scored += len(part) - 1
    return math.exp(-total / scored)


def compare(
    model: Path,
    model_name: str,
    names: Sequence[str],
    *,
    text: str,
    threads: int,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> PerplexityReport:
    """Measure variants; the first one is what the others are compared with.

    Args:
        model: folder of the base model.
        model_name: for people.
        names: of `VARIANTS`.
        text: to score.
        threads: of the CPU.
        rounds: of timing; every round goes through all variants and batches.
        clock: seconds.
    """
    before = load_average()
    torch.set_num_threads(threads)
    tokens: list[int] = AutoTokenizer.from_pretrained(model, local_files_only=True)(text).input_ids
    variants = {name: _Variant(model, name) for name in names}
    found = {
        name: perplexity(variant.log_likelihood, tokens, variant.window)
        for name, variant in variants.items()
    }
    times: dict[tuple[str, int], list[float]] = {
        (name, rows): [] for name in names for rows in BATCHES
    }
    for turn in range(rounds + 1):
        for (name, rows), samples in times.items():
            start = clock()
            variants[name].step(rows)
            if turn:  # the first one warms up
                samples.append(clock() - start)
    cpu, isa = cpu_info()
    first = names[0]

    def speedup(name: str, rows: int) -> float:
        pairs = zip(times[first, rows], times[name, rows], strict=True)
        return statistics.median(base / own for base, own in pairs)

    return PerplexityReport(
        model=model_name,
        tokens=len(tokens) - 1,
        window=min(variant.window for variant in variants.values()),
        threads=threads,
        rounds=rounds,
        cpu=cpu,
        isa=isa,
        torch=torch_build(),
        load_before=before,
        load_after=load_average(),
        variants=tuple(
            VariantResult(
                name=name,
                perplexity=found[name],
                change=found[name] / found[first] - 1,
                step_ms={rows: 1e3 * statistics.median(times[name, rows]) for rows in BATCHES},
                speedup={rows: speedup(name, rows) for rows in BATCHES},
            )
            for name in names
        ),
    )


def render(report: PerplexityReport, command: str) -> str:
    """Render the comparison as a page; ``command`` wrote it."""
    busy = max(report.load_before - 1, report.load_after - report.threads) > 1
    lines = [
        "# Quantised weights",
        "",
        f"Written by `{command}`; do not edit. {report.model}, {report.tokens} tokens of "
        f"`benchmarks/perplexity/text.txt` in windows of {report.window}, through the engine's own "
        "products; step: one token for each row, after "
        f"{CONTEXT} tokens, base only, sampling left out.",
        "",
        f"{report.cpu}, {report.threads} threads, {', '.join(report.isa)}; torch {report.torch}. "
        f"Load average {report.load_before:.2f} before, {report.load_after:.2f} after; "
        f"{report.rounds} rounds, each through all rows: times are medians, ratios are medians of "
        "the rounds' own ratios.",
        "",
        *(
            ["**Other processes used the same cores during this run**: times are too long.", ""]
            if busy
            else []
        ),
        "| weights | perplexity | change | "
        + " | ".join(f"step of {rows}, ms | faster" for rows in BATCHES)
        + " |",
        "|---|---:|---:|" + "---:|---:|" * len(BATCHES),
    ]
    for item in report.variants:
        steps = " | ".join(
            f"{item.step_ms[rows]:.1f} | {item.speedup[rows]:.2f}x" for rows in BATCHES
        )
        lines.append(
            f"| {item.name} | {item.perplexity:.4f} | {100 * item.change:+.3f} % | {steps} |"
        )
    return "\n".join(lines) + "\n"
