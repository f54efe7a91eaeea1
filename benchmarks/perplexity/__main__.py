"""``python -m benchmarks.perplexity``."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.shared.command_line import command_app
from cluster.config import AppConfig, Settings, cache_folder
from cluster.errors import ConfigError
from deployments.cli.toolkit import console

PROGRAM = "python -m benchmarks.perplexity"
FIRST = "float32"


class Weights(StrEnum):
    """Formats that can be compared with fp32."""

    INT8 = "int8"
    BFLOAT16 = "bfloat16"


def perplexity(
    model: Annotated[str, typer.Option(metavar="ID|DIR", help="Base model.")] = AppConfig().model,
    quantize: Annotated[
        list[Weights] | None,
        typer.Option(help="Compare these weights with fp32; may be given again. Default: all."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. Default: every core.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Of timed steps.")] = 20,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write quantize.json and quantize.md there.")
    ] = None,
) -> None:
    """Measure the perplexity of a fixed text and the time of a decode step, in fp32, int8 and
    bf16.

    All of them run in one process, in turns, so the model is held once for each.
    """
    from benchmarks.perplexity.compare import BATCHES, TEXT, compare, render
    from benchmarks.shared.machine import usable_cores
    from benchmarks.shared.quiet import quiet
    from cluster.base_model.source import resolve_model

    with console.fetch_bar() as fetched:
        location = resolve_model(model, cache_folder(Settings()), fetched)
    names = [FIRST, *(item.value for item in quantize or tuple(Weights))]
    with console.spinner("measuring"), quiet():
        report = compare(
            location.path,
            location.model_id,
            list(dict.fromkeys(names)),
            text=TEXT.read_text(encoding="utf-8"),
            threads=threads or usable_cores(),
            rounds=rounds,
        )
    table = Table("weights", "perplexity", "change", *(f"step of {n}, ms" for n in BATCHES))
    for item in report.variants:
        table.add_row(
            item.name,
            f"{item.perplexity:.4f}",
            f"{100 * item.change:+.3f} %",
            *(f"{item.step_ms[n]:.1f} ({item.speedup[n]:.2f}x)" for n in BATCHES),
        )
    console.out.print(table)
    if out is None:
        return
    words = PROGRAM.split()
    words += ["--model", model] if model != AppConfig().model else []
    words += [part for item in quantize or () for part in ("--quantize", item.value)]
    words += ["--threads", str(threads)] if threads is not None else []
    words += ["--rounds", str(rounds)] if rounds != 20 else []
    data, page = out / "quantize.json", out / "quantize.md"
    try:
        out.mkdir(parents=True, exist_ok=True)
        data.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        page.write_text(render(report, shlex.join(words)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error}") from error
    for path in (data, page):
        console.plain(f"wrote {path}")


app = command_app(PROGRAM, perplexity)

if __name__ == "__main__":
    app(prog_name=PROGRAM)
