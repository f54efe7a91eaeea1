"""A run as a picture: tokens per second and ratio to base, by batch and adapters."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.engine.results import EngineReport, StepRow


def plot(report: EngineReport, path: Path) -> None:
    """Write the decode steps of a run as a PNG. Raises ValueError for a run without any."""
    if not report.decode:
        raise ValueError("there are no decode steps to draw")
    figure = Figure(figsize=(13, 5), layout="constrained")
    FigureCanvasAgg(figure)
    rates, ratios = figure.subplots(1, 2)
    for title, rows in _by_case(report.decode):
        batches = [row.batch for row in rows]
        medians = [row.rate.median for row in rows]
        spread = (
            [row.rate.median - row.rate.low for row in rows],
            [row.rate.high - row.rate.median for row in rows],
        )
        rates.errorbar(batches, medians, yerr=spread, marker="o", capsize=2, label=title)
        ratios.plot(batches, [row.ratio_to_base for row in rows], marker="o", label=title)
    base = [row for row in report.decode if row.case == "base"]
    bound = [
        row.batch * row.tokens * 1e3 / max(row.bound_bytes_ms, row.bound_flops_ms) for row in base
    ]
    rates.plot([row.batch for row in base], bound, "k--", label="bound, base")
    rates.set_title("decode tokens/s")
    rates.set_yscale("log")
    ratios.set_title("of base at the same batch")
    ratios.set_ylim(0, 1.15)
    for axes in (rates, ratios):
        axes.set_xlabel("batch")
        axes.set_xscale("log", base=2)
        ticks = sorted({row.batch for row in report.decode})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.grid(visible=True, alpha=0.3)
    rates.legend(fontsize=8)
    ratios.legend(fontsize=8, loc="lower left", ncols=2)
    run = report.run
    kind = run.dtype + (f" {run.quantize}" if run.quantize else "")
    figure.suptitle(f"{run.model}, {kind}, {report.machine.threads} threads, rank {run.rank}")
    figure.savefig(path, dpi=110)


def _by_case(rows: Sequence[StepRow]) -> list[tuple[str, list[StepRow]]]:
    found: dict[str, list[StepRow]] = {}
    for row in rows:
        found.setdefault(row.title, []).append(row)
    return list(found.items())
