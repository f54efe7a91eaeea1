"""Options of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine.cases import (
    BATCHES,
    CASES,
    QUICK,
    QUICK_BATCHES,
    Case,
    choose_cases,
)
from benchmarks.engine.peaks import GEMM_SHAPES
from benchmarks.shared.machine import usable_cores
from cluster.config import EngineConfig
from cluster.errors import ConfigError

STEPS = 4
"""Decode steps of one visit to a case; the next case follows."""

GENERATIONS = (
    ("base", 1, True),
    ("base", 16, True),
    ("base", 32, False),
    ("idle-16", 16, False),
    ("adapters-1", 16, True),
    ("adapters-16", 16, True),
    ("mixture-4", 16, False),
)
"""(case, batch, with the reference): whole generations. PEFT's mixed batches are slow, and it has
no mixtures in them."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """One run. ``quick`` and ``full`` make the two usual ones."""

    model: Path  # folder
    model_name: str
    cases: tuple[Case, ...]
    batches: tuple[int, ...]
    generations: tuple[tuple[str, int, bool], ...]  # (case, batch, with the reference)
    rounds: int  # through all steps
    generation_rounds: int
    budget_s: float  # no new round is begun after it
    threads: int
    prompt_tokens: int = 64
    output_tokens: int = 64
    rank: int = 8
    dtype: str = "float32"
    quantize: str | None = None
    seed: int = 0
    peak_seconds: float = 0.25  # for each product and pass that is timed
    peak_shapes: tuple[tuple[int, int, int], ...] = GEMM_SHAPES
    peak_bytes: int = 1280 * 2**20  # read to measure bandwidth; larger than any cache

    def engine_config(self) -> EngineConfig:
        """Make the engine's configuration: room for the largest batch, nothing cached between
        runs."""
        longest = self.prompt_tokens + self.output_tokens + STEPS * (self.rounds + 1) + 1
        block_size = EngineConfig().block_size
        largest = max([*self.batches, *(batch for _, batch, _ in self.generations)])
        fields: dict[str, object] = {
            "device": "cpu",
            "dtype": self.dtype,
            "threads": self.threads,
            "max_batch_size": largest,
            "kv_blocks": largest * (longest // block_size + 2),
            "prefix_cache": False,
        }
        if self.quantize is not None:
            fields["quantize"] = self.quantize
        return EngineConfig.model_validate(fields)

    @property
    def adapters(self) -> int:
        """Adapters that the cases need; the correctness check needs 16 in any case."""
        return max(16, *(case.loaded for case in self.cases))


def make_options(
    model: Path,
    model_name: str,
    *,
    quick: bool,
    threads: int | None = None,
    only: Sequence[str] = (),
    batches: Sequence[int] = (),
    dtype: str = "float32",
    quantize: str | None = None,
    seed: int = 0,
) -> BenchOptions:
    """Make the quick run (below two minutes on two free cores) or the full one (below twelve).

    Args:
        model: folder of the base model.
        model_name: for people.
        quick: fewer cases, batches, rounds and tokens.
        threads: of tensor work; None: every core this process may use.
        only: names of cases; empty: all of them.
        batches: batch sizes; empty: all of them.
        dtype: "float32", "bfloat16" or "float16".
        quantize: "int8", or None.
        seed: of adapters and prompts.

    Raises:
        ConfigError: an unknown case, or a thread count or batch that cannot be.
    """
    cores = usable_cores()
    if threads is not None and not 1 <= threads <= cores:
        raise ConfigError(f"--threads: expected 1 to {cores}, the cores of this machine; {threads}")
    if any(batch < 1 or batch > 256 for batch in batches):
        raise ConfigError(f"--batch: expected 1 to 256, found {min(batches)} to {max(batches)}")
    names = only or (QUICK if quick else tuple(case.name for case in CASES))
    cases = choose_cases(names)
    sizes = tuple(sorted(set(batches))) or (QUICK_BATCHES if quick else BATCHES)
    chosen = {case.name for case in cases}
    generations = tuple(
        (case, batch, compared)
        for case, batch, compared in GENERATIONS
        if case in chosen and batch in sizes
    )
    return BenchOptions(
        model=model,
        model_name=model_name,
        cases=cases,
        batches=sizes,
        generations=generations,
        rounds=3 if quick else 6,
        generation_rounds=1 if quick else 3,
        budget_s=90.0 if quick else 600.0,
        threads=cores if threads is None else threads,
        output_tokens=16 if quick else 64,
        dtype=dtype,
        quantize=quantize,
        seed=seed,
    )
