"""Results of a run, as written to JSON, and the arithmetic from samples to figures.

Every round goes through all cases, so a ratio compares samples that were taken within seconds of
each other: it is the median of the rounds' own ratios, not the ratio of two medians.
"""

import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from benchmarks.engine.roofline import RooflineBound

SCHEMA = "braid-bench-engine/1"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rate(_Part):
    """Tokens per second over the rounds."""

    median: float
    low: float
    high: float


class MachineNote(_Part):
    """Machine of the run, and its peaks meanwhile."""

    cpu: str
    isa: tuple[str, ...]
    cores: int
    threads: int
    torch: str
    python: str
    load_before: float
    load_after: float
    gemm_gflops: float  # in the engine's dtype
    linear_gflops: float  # in the type of its weights
    bandwidth_gbs: float
    peak_samples: tuple[tuple[float, float, float], ...]  # the three above, each time measured


class RunNote(_Part):
    """Options of the run."""

    model: str
    parameters: int  # linears and head
    dtype: str
    quantize: str | None
    rank: int
    prompt_tokens: int
    output_tokens: int
    seed: int
    seconds: float


class CorrectnessNote(_Part):
    """One comparison of the correctness check."""

    name: str
    rms: float
    limit: float
    token_gap: float
    sensitivity: float


class StepRow(_Part):
    """Steps of one case at one batch size."""

    case: str
    title: str
    batch: int
    tokens: int  # of each request in a step
    context: float  # tokens stored before, the mean
    ms: tuple[tuple[float, ...], ...]  # per round, each step
    step_ms: float  # median over rounds of their medians
    best_ms: float  # the fastest step: what other processes disturbed least
    rate: Rate
    ratio_to_base: float
    best_ratio_to_base: float  # of the fastest steps
    bound_bytes_ms: float
    bound_flops_ms: float
    fraction_of_bound: float


class GenerationRow(_Part):
    """Whole generations of one case at one batch size."""

    case: str
    title: str
    batch: int
    seconds: tuple[float, ...]  # per round
    step_ms: float | None  # median decode step within it
    rate: Rate
    ratio_to_base: float | None  # None: the base was not run at this batch
    fraction_of_bound: float
    reference: str | None
    reference_seconds: tuple[float, ...]
    reference_step_ms: float | None
    reference_rate: Rate | None
    speedup: float | None


class EngineReport(_Part):
    """Everything."""

    schema_name: str = SCHEMA
    machine: MachineNote
    run: RunNote
    correctness: tuple[CorrectnessNote, ...]
    decode: tuple[StepRow, ...]
    prefill: tuple[StepRow, ...]
    generation: tuple[GenerationRow, ...]


def rate(tokens: int, seconds: Sequence[float]) -> Rate:
    """Compute tokens per second: median, lowest and highest of the rounds."""
    rates = [tokens / each for each in seconds]
    return Rate(median=statistics.median(rates), low=min(rates), high=max(rates))


def ratio_to(base: Sequence[float], other: Sequence[float]) -> float:
    """Compute throughput relative to the base's: the median over rounds of base / other time."""
    return statistics.median(b / o for b, o in zip(base, other, strict=True))


def step_row(
    *,
    case: str,
    title: str,
    batch: int,
    tokens: int,
    context: float,
    rounds: Sequence[Sequence[float]],
    base_rounds: Sequence[Sequence[float]],
    bound: RooflineBound,
) -> StepRow:
    """Compute the figures of one case's steps.

    Args:
        case: its name.
        title: its name for people.
        batch: requests in a step.
        tokens: computed of each request in a step.
        context: tokens stored before, the mean.
        rounds: seconds of each step, by round.
        base_rounds: likewise of the base at the same batch, in the same rounds.
        bound: of the step.
    """
    seconds = [statistics.median(steps) for steps in rounds]
    base = [statistics.median(steps) for steps in base_rounds]
    step = statistics.median(seconds)
    return StepRow(
        case=case,
        title=title,
        batch=batch,
        tokens=tokens,
        context=context,
        ms=tuple(tuple(round(each * 1e3, 4) for each in steps) for steps in rounds),
        step_ms=step * 1e3,
        best_ms=_best(rounds) * 1e3,
        rate=rate(batch * tokens, seconds),
        ratio_to_base=ratio_to(base, seconds),
        best_ratio_to_base=_best(base_rounds) / _best(rounds),
        bound_bytes_ms=bound.bytes_s * 1e3,
        bound_flops_ms=bound.flops_s * 1e3,
        fraction_of_bound=bound.seconds / step,
    )


def generation_row(
    *,
    case: str,
    title: str,
    batch: int,
    output: int,
    seconds: Sequence[float],
    steps: Sequence[float | None],
    base_seconds: Sequence[float] | None,
    bound_s: float,
    reference: str | None,
    reference_seconds: Sequence[float],
    reference_steps: Sequence[float | None],
) -> GenerationRow:
    """Compute the figures of one case's generations.

    Args:
        case: its name.
        title: its name for people.
        batch: requests.
        output: tokens generated for each.
        seconds: of each round.
        steps: median decode step of each round, in seconds.
        base_seconds: of the base at the same batch in the same rounds, if it was run.
        bound_s: least seconds of the whole batch.
        reference: who computed it too, if anybody did.
        reference_seconds: of the rounds in which it did.
        reference_steps: likewise, its median decode steps.
    """
    found = rate(batch * output, seconds)
    theirs = rate(batch * output, reference_seconds) if reference_seconds else None
    return GenerationRow(
        case=case,
        title=title,
        batch=batch,
        seconds=tuple(seconds),
        step_ms=_median_ms(steps),
        rate=found,
        ratio_to_base=None if base_seconds is None else ratio_to(base_seconds, seconds),
        fraction_of_bound=bound_s / statistics.median(seconds),
        reference=reference,
        reference_seconds=tuple(reference_seconds),
        reference_step_ms=_median_ms(reference_steps),
        reference_rate=theirs,
        speedup=None if theirs is None else found.median / theirs.median,
    )


def _best(rounds: Sequence[Sequence[float]]) -> float:
    return min(step for steps in rounds for step in steps)


def _median_ms(steps: Sequence[float | None]) -> float | None:
    known = [step * 1e3 for step in steps if step is not None]
    return statistics.median(known) if known else None
