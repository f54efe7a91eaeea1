"""``python -m benchmarks.engine``."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from benchmarks.shared.command_line import command_app
from cluster.config import AppConfig, Settings, cache_folder
from deployments.cli.toolkit import console

if TYPE_CHECKING:
    from benchmarks.engine.results import EngineReport

PROGRAM = "python -m benchmarks.engine"
BUSY = 1.0
"""Load average above which other programs are at work."""


class Dtype(StrEnum):
    """Types that the engine computes in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Quantize(StrEnum):
    """Types that weights may be rounded to."""

    INT8 = "int8"


def engine(
    model: Annotated[
        str, typer.Option(metavar="ID|DIR", help="Base model, Llama-like.")
    ] = AppConfig().model,
    quick: Annotated[
        bool, typer.Option("--quick", help="Below 2 minutes: fewer cases, batches and rounds.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads. Default: every core of this machine.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CASE",
            help="Measure this case as well as the base, such as adapters-16 or mixture-4; may be "
            "given again.",
        ),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="Measure this batch size; may be given again.")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="What the engine computes in.")] = Dtype.FLOAT32,
    quantize: Annotated[
        Quantize | None, typer.Option(help="Round the base's weights. Default: not at all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of adapters and prompts.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write engine-bench.json, .md and .png there."),
    ] = None,
) -> None:
    """Measure decoding and prefill with adapters, against transformers, PEFT and the hardware.

    No figure is shown unless the engine agrees with PEFT. The full run takes about ten minutes on
    two free cores.
    """
    from benchmarks.engine.options import make_options
    from benchmarks.engine.run import run_bench
    from benchmarks.engine.writing import write_report
    from benchmarks.shared.machine import load_average
    from cluster.base_model.source import resolve_model

    with console.fetch_bar() as fetched:
        location = resolve_model(model, cache_folder(Settings()), fetched)
    options = make_options(
        location.path,
        location.model_id,
        quick=quick,
        threads=threads,
        only=only or (),
        batches=batch or (),
        dtype=dtype.value,
        quantize=None if quantize is None else quantize.value,
        seed=seed,
    )
    busy = load_average()
    if busy > BUSY:
        console.note(
            f"the load average is {busy:.1f}: other processes use these cores, and the figures "
            "will be theirs as much as the engine's"
        )
    with console.counter(transient=True) as progress:
        report = run_bench(options, progress)
    _show(report)
    if out is not None:
        words = PROGRAM.split()
        words += ["--model", model] if model != AppConfig().model else []
        words += ["--quick"] if quick else []
        words += ["--threads", str(threads)] if threads is not None else []
        words += [part for name in only or () for part in ("--only", name)]
        words += [part for size in batch or () for part in ("--batch", str(size))]
        words += ["--dtype", dtype.value] if dtype is not Dtype.FLOAT32 else []
        words += ["--quantize", quantize.value] if quantize is not None else []
        words += ["--seed", str(seed)] if seed else []
        stem = "engine-bench" + ("" if dtype is Dtype.FLOAT32 else f"-{dtype.value}")
        stem += "" if quantize is None else f"-{quantize.value}"
        for path in write_report(report, out, stem, shlex.join(words)):
            console.plain(f"wrote {path}")


def _show(report: "EngineReport") -> None:
    """Print the tables."""
    machine = report.machine
    console.plain(
        f"{report.run.model}, {machine.threads} threads: {machine.gemm_gflops:.0f} GFLOP/s, "
        f"{machine.bandwidth_gbs:.1f} GB/s; load {machine.load_before:.1f} before, "
        f"{machine.load_after:.1f} after"
    )
    table = Table("batch", "generation", "tokens/s", "of base", "of bound", "beside", "faster")
    for row in report.generation:
        table.add_row(
            str(row.batch),
            row.title,
            f"{row.rate.median:.1f}",
            "" if row.ratio_to_base is None else f"{row.ratio_to_base:.2f}",
            f"{row.fraction_of_bound:.2f}",
            ""
            if row.reference_rate is None
            else f"{row.reference} {row.reference_rate.median:.1f}",
            "" if row.speedup is None else f"{row.speedup:.2f}x",
        )
    console.out.print(table)
    for name, rows in (("decode step", report.decode), ("prefill step", report.prefill)):
        table = Table("batch", name, "ms", "tokens/s", "of base", "of bound", "bound ms")
        for step in rows:
            table.add_row(
                str(step.batch),
                step.title,
                f"{step.step_ms:.1f}",
                f"{step.rate.median:.1f}",
                f"{step.ratio_to_base:.2f}",
                f"{step.fraction_of_bound:.2f}",
                f"bytes {step.bound_bytes_ms:.1f}, FLOPs {step.bound_flops_ms:.1f}",
            )
        console.out.print(table)


app = command_app(PROGRAM, engine)

if __name__ == "__main__":
    app(prog_name=PROGRAM)
