"""Pictures of a routing decision: bars of candidates, heat maps of weights inside the model."""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.domain.decision import DecisionSource
from cluster.errors import ConfigError
from deployments.cli.routers.route_answer import by_adapter, weighs_modules, weighs_tokens

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

KEPT, LEFT, WEIGHT = "#1f77b4", "#c7c7c7", "#ff7f0e"
TITLE_CHARACTERS = 90
TOKEN_CHARACTERS = 16
DPI = 150
SUFFIX = ".png"
WIDTH, TOKEN_WIDTH = 7.0, 0.2  # inches: of a figure at least, of a token's column
VISIBLE = str.maketrans({" ": "␣", "\n": "↵", "\r": "↵", "\t": "⇥"})


def check_target(path: Path) -> None:
    """Refuse a picture's name before anything is asked for the picture.

    Raises:
        ConfigError: it does not end in .png, or the file cannot be written.
    """
    if path.suffix.lower() != SUFFIX:
        raise ConfigError(f"--plot {path}: a picture is a PNG file; its name ends in {SUFFIX}")
    try:
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise _unwritable(path, error) from error


def plot_decision(decision: dict[str, Any], prompt: str, path: Path) -> str:
    """Draw the explanation of ``POST /v1/route`` into a PNG file; returns what is drawn, in words.

    A gate's weights become one heat map per adapter, if an answer has shown them. Candidates of
    other routers become bars of probability and weight; weights of layers and modules, if the
    decision has them, become a heat map below.

    Raises:
        ConfigError: there is nothing to draw, or the file cannot be written.
    """
    explained = decision.get("explain") or {}
    candidates = explained.get("candidates") or []
    layers = explained.get("layers")
    title = f"{decision['router']}: {' '.join(prompt.split())[:TITLE_CHARACTERS]}"
    if explained.get("gate_weights"):
        weights = by_adapter(explained)
        plot_gate(weights, decision.get("answer", {}).get("tokens", ()), path, title)
        return f"weights of {', '.join(weights)} by layer and token of the answer"
    if weighs_tokens(decision) or not (candidates or layers):
        raise ConfigError(_nothing_to_draw(decision))
    parts = ([1.0 + 0.4 * len(candidates)] if candidates else []) + ([6.0] if layers else [])
    figure, axes = _figure(parts)
    figure.suptitle(title, fontsize=10, parse_math=False)
    if candidates:
        _bars(axes[0], candidates)
    if layers:
        draw_heat_map(axes[-1], layers["weights"], layers["columns"])
    save(figure, path)
    words = ["candidates' probabilities and weights"] if candidates else []
    return " and ".join(words + (["weights by layer and module"] if layers else []))


def _nothing_to_draw(decision: dict[str, Any]) -> str:
    if decision.get("source") == DecisionSource.FALLBACK:
        return "the router did not answer, the base model alone does: nothing to draw"
    router = f"router {decision['router']!r}"
    if weighs_tokens(decision):
        return f"{router} tells no weights by layer: nothing to draw"
    if weighs_modules(decision):
        return f"{router}: the modules that prefill chose are not kept, the decision store is down"
    return "the decision has neither candidates nor weights to draw"


def plot_gate(
    weights: dict[str, list[list[float]]], tokens: Sequence[str], path: Path, title: str = ""
) -> None:
    """Draw weights [layers][tokens] of each adapter into a PNG file, on one scale of colours.

    Args:
        tokens: texts of the generated tokens; a token without one gets an empty label.

    Raises:
        ConfigError: the file cannot be written.
    """
    maps = list(weights.values())
    layers, columns = len(maps[0]), len(maps[0][0])
    height = 0.8 + 0.06 * min(layers, 60)
    figure, axes = _figure([height] * len(maps), max(WIDTH, 1.5 + TOKEN_WIDTH * columns))
    figure.suptitle(title, fontsize=10, parse_math=False)
    limit = _limit([row for rows in maps for row in rows])
    for axis, (name, rows) in zip(axes, weights.items(), strict=True):
        image = _heat(axis, rows, limit)
        axis.set_title(name, fontsize=9, loc="left", parse_math=False)
        axis.set_xticks(range(columns), labels=[""] * columns)
    labels = [token.translate(VISIBLE)[:TOKEN_CHARACTERS] for token in tokens][:columns]
    labels += [""] * (columns - len(labels))
    axes[-1].set_xticks(
        range(columns), labels=labels, rotation=90, fontsize=8, family="monospace", parse_math=False
    )
    axes[-1].set_xlabel("generated token")
    figure.colorbar(image, ax=axes, label="weight")
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
    """Draw weights [layers, columns] on ``axes``; 0 is white, negative red, positive blue."""
    image = _heat(axes, weights, _limit(weights))
    axes.set_xticks(range(len(columns)), labels=list(columns), rotation=30, ha="right")
    axes.figure.colorbar(image, ax=axes, label="weight")


def _limit(weights: Sequence[Sequence[float]]) -> float:
    """Choose the end of a colour scale around 0 that covers all of ``weights``."""
    return max((abs(value) for row in weights for value in row), default=0.0) or 1.0


def _heat(axes: "Axes", weights: Sequence[Sequence[float]], limit: float) -> "AxesImage":
    """Draw weights [layers, columns] as colours from ``-limit`` to ``limit``; label the layers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_ylabel("layer")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    return axes.imshow(weights, aspect="auto", cmap="RdBu", vmin=-limit, vmax=limit)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        with warnings.catch_warnings():
            # Boxes in the title are enough.
            warnings.filterwarnings("ignore", "Glyph .* missing from")
            figure.savefig(path, format="png", dpi=DPI)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"--plot {path}: cannot be written: {error.strerror}")


def _figure(heights: Sequence[float], width: float = WIDTH) -> tuple["Figure", list["Axes"]]:
    """Make a figure that belongs to no window and no global state, drawn by Agg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, sum(heights) + 0.6), layout="constrained")
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
