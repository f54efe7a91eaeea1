"""Pictures of a report. matplotlib is imported only when something is drawn."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.simulation.report.series import RunSeries
from cluster.simulation.report.table import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
LONG_S = 2 * 3600.0
"""Seconds of a run above which its time is drawn in hours."""
WIDTH = 9.0  # inches
COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f")
COURSE, WAITS, MAP, COSTS = "course.png", "ttft.png", "placement.png", "costs.png"
PICTURES = (COURSE, WAITS, MAP, COSTS)


def draw_report(report: Report, series: Sequence[RunSeries], folder: Path) -> list[tuple[str, str]]:
    """Draw all pictures into ``folder``; returns (file name, caption) of each.

    Args:
        series: of the first seed, one for each column.
    """
    names = [name for name, _ in report.columns]
    pictures = [
        (COURSE, f"Load, waits, replicas and moved bytes over time, seed {report.seeds[0]}"),
        (WAITS, f"Time to the first token by tenant, seed {report.seeds[0]}"),
    ]
    _save(_course(names, series), folder / COURSE)
    _save(_waits(names, series), folder / WAITS)
    if series[0].adapters:
        _save(_map(series[0]), folder / MAP)
        pictures.append((MAP, f"Share of the run in each replica's plan, {names[0]}"))
    costs = _costs(report)
    if costs is not None:
        _save(costs, folder / COSTS)
        pictures.append((COSTS, "Replica-hours and promises kept, with 95 % intervals"))
    return pictures


def _course(names: Sequence[str], series: Sequence[RunSeries]) -> "Figure":
    from matplotlib.ticker import LogLocator, MaxNLocator

    figure, (load, slow, replicas, moved) = _figure([1.4, 2.0, 2.0, 1.4], share_time=True)
    unit, scale = ("hours", 3600.0) if series[0].duration_s > LONG_S else ("seconds", 1.0)
    load.plot(*_columns(series[0].arrivals, scale), color="black", linewidth=1)
    load.set_ylabel("requests/s")
    load.set_ylim(bottom=0)
    widths = itertools.chain((3.0, 2.0), itertools.repeat(1.2))  # equal lines stay visible
    for color, name, run, width in zip(itertools.cycle(COLORS), names, series, widths):
        slow.plot(*_columns(run.slow, scale), color=color, linewidth=width, label=name)
        ready = _columns(run.ready, scale)
        replicas.step(*ready, where="post", color=color, linewidth=width)
        wanted = _columns(run.wanted, scale)
        replicas.step(*wanted, where="post", color=color, linewidth=0.8, linestyle=":")
        times, nbytes = _columns(run.moved, scale)
        moved.step(times, [n / 1e6 for n in nbytes], where="post", color=color, linewidth=width)
    slow.set_ylabel("first token,\nslowest 5 %, seconds")
    slow.set_yscale("log")
    slow.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    slow.yaxis.set_major_formatter("{x:g}")
    slow.yaxis.set_minor_formatter("")
    replicas.set_ylabel("replicas\n(dotted: wanted)")
    replicas.set_ylim(bottom=0)
    replicas.yaxis.set_major_locator(MaxNLocator(integer=True))
    moved.set_ylabel("MB moved\nso far")
    moved.set_ylim(bottom=0)
    moved.set_xlabel(unit)
    _legend(slow)
    return figure


def _waits(names: Sequence[str], series: Sequence[RunSeries]) -> "Figure":
    """Draw distributions: one panel a column, one line a tenant, on one scale."""
    figure, axes = _figure([1.5] * len(series), share_time=True)
    for axis, name, run in zip(axes, names, series, strict=True):
        for color, (tenant, values) in zip(itertools.cycle(COLORS), run.ttft.items()):
            shares = [(index + 1) / len(values) for index in range(len(values))]
            axis.plot([max(v, 1e-4) for v in values], shares, color=color, label=tenant)
        axis.set_xscale("log")
        axis.set_ylim(0, 1)
        axis.set_title(name, fontsize=9, loc="left", parse_math=False)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("seconds to the first token")
    _legend(axes[0])
    return figure


def _map(run: RunSeries) -> "Figure":
    figure, (axis,) = _figure([0.8 + 0.18 * len(run.adapters)])
    image = axis.imshow(run.held, aspect="auto", cmap="Blues", vmin=0, vmax=1)
    axis.set_yticks(range(len(run.adapters)), labels=list(run.adapters), fontsize=7)
    axis.set_xticks(
        range(len(run.replicas)), labels=list(run.replicas), fontsize=7, rotation=45, ha="right"
    )
    figure.colorbar(image, ax=axis, label="share of the run")
    return figure


def _costs(report: Report) -> "Figure | None":
    hours = report.row("replicas", "replica-hours")
    kept = report.row("all requests", "SLO attained")
    if hours is None or kept is None:
        return None
    figure, (axis,) = _figure([4.0])
    sizes = itertools.chain((12.0, 9.0), itertools.repeat(6.0))  # equal points stay visible
    for color, (name, _), x, y, size in zip(
        itertools.cycle(COLORS), report.columns, hours.cells, kept.cells, sizes
    ):
        if x is None or y is None:
            continue
        axis.errorbar(
            x.interval.mean,
            100 * y.interval.mean,
            xerr=x.interval.half,
            yerr=None if y.interval.half is None else 100 * y.interval.half,
            marker="o",
            markersize=size,
            color=color,
            label=f"{name}: {x.interval.mean:.3g} h, {100 * y.interval.mean:.3g} %",
        )
    axis.set_xlabel("replica-hours")
    axis.set_ylabel("requests within their tier's promise, %")
    low, high = axis.get_ylim()
    axis.set_ylim(max(0.0, min(low, 99.0)), min(high, 100.5))
    axis.grid(alpha=0.3)
    _legend(axis)
    return figure


def _columns(
    points: Sequence[tuple[float, float]], scale: float
) -> tuple[list[float], list[float]]:
    """Return times, in units of ``scale`` seconds, and values."""
    return [x / scale for x, _ in points], [y for _, y in points]


def _legend(axis: "Axes") -> None:
    if not axis.get_legend_handles_labels()[1]:
        return
    for text in axis.legend(fontsize=7, ncols=2, loc="best").get_texts():
        text.set_parse_math(False)


def _figure(heights: Sequence[float], share_time: bool = False) -> tuple["Figure", list["Axes"]]:
    """Make a figure that belongs to no window and no global state, drawn by Agg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, sum(heights) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(
        len(heights), 1, squeeze=False, sharex=share_time, height_ratios=list(heights)
    )
    return figure, list(grid[:, 0])


def _save(figure: "Figure", path: Path) -> None:
    figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})
