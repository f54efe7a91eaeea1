"""Pictures of a routing decision: bars of candidates, heat maps of weights inside the model."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEPT, LEFT, WEIGHT = "#1f77b4", "#c7c7c7", "#ff7f0e"
TITLE_CHARACTERS = 90
DPI = 150


def plot_decision(decision: dict[str, Any], prompt: str, path: Path) -> None:
    """Draw the explanation of ``POST /v1/route`` into a PNG file.

    Candidates become bars of probability and weight; weights of layers and modules, where the
    decision has them, a heat map below.

    Raises:
        ConfigError: there is nothing to draw, or the file cannot be written.
    """
    explained = decision.get("explain") or {}
    candidates = explained.get("candidates") or []
    layers = explained.get("layers")
    if not candidates and not layers:
        raise ConfigError("the decision has neither candidates nor weights to draw")
    parts = ([1.0 + 0.4 * len(candidates)] if candidates else []) + ([6.0] if layers else [])
    figure, axes = _figure(parts)
    title = " ".join(prompt.split())[:TITLE_CHARACTERS]
    figure.suptitle(f"{decision['router']}: {title}", fontsize=10, parse_math=False)
    if candidates:
        _bars(axes[0], candidates)
    if layers:
        draw_heat_map(axes[-1], layers["weights"], layers["columns"])
    save(figure, path)


def plot_heat_map(
    weights: Sequence[Sequence[float]], columns: Sequence[str], path: Path, title: str = ""
) -> None:
    """Draw weights [layers, columns] into a PNG file: adapters for a gate, modules for MiLoRA.

    Raises:
        ConfigError: the file cannot be written.
    """
    figure, axes = _figure([1.5 + 0.2 * len(weights)])
    figure.suptitle(title, fontsize=10, parse_math=False)
    draw_heat_map(axes[0], weights, columns)
    save(figure, path)


def draw_heat_map(axes: "Axes", weights: Sequence[Sequence[float]], columns: Sequence[str]) -> None:
    """Weights [layers, columns] on ``axes``; 0 is white, negative red, positive blue."""
    limit = max((abs(value) for row in weights for value in row), default=0.0) or 1.0
    image = axes.imshow(weights, aspect="auto", cmap="RdBu", vmin=-limit, vmax=limit)
    axes.set_xticks(range(len(columns)), labels=list(columns), rotation=30, ha="right")
    axes.set_ylabel("layer")
    axes.figure.colorbar(image, ax=axes, label="weight")


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")  # boxes in the title will do
            figure.savefig(path, format="png", dpi=DPI)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def _figure(heights: Sequence[float]) -> tuple["Figure", list["Axes"]]:
    """A figure that no window and no global state belongs to, drawn by Agg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, sum(heights) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(heights), 1, squeeze=False, height_ratios=list(heights))
    return figure, list(grid[:, 0])


def _bars(axes: "Axes", candidates: Sequence[dict[str, Any]]) -> None:
    from matplotlib.patches import Patch

    names = [candidate["name"] for candidate in candidates]
    places = range(len(names))
    axes.barh(
        [place - 0.2 for place in places],
        [candidate["probability"] for candidate in candidates],
        height=0.4,
        color=[KEPT if candidate["kept"] else LEFT for candidate in candidates],
    )
    axes.barh(
        [place + 0.2 for place in places],
        [candidate["weight"] for candidate in candidates],
        height=0.4,
        color=WEIGHT,
    )
    axes.set_yticks(places, labels=names)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.5)
    legend = {"probability, kept": KEPT, "probability": LEFT, "weight": WEIGHT}
    axes.legend(
        handles=[Patch(color=color, label=label) for label, color in legend.items()],
        loc="lower right",
        fontsize=8,
    )
