"""Pictures of decisions, and where ``braid route`` gets them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError
from deployments.cli.route_plot import plot_decision, plot_heat_map

PNG = b"\x89PNG\r\n\x1a\n"
CANDIDATES = [
    {"name": "sql", "probability": 0.7, "kept": True, "weight": 0.6},
    {"name": "(base)", "probability": 0.3, "kept": False, "weight": -0.2},
]
LAYERS = {"columns": ["q_proj", "up_proj"], "weights": [[1.0, 0.0], [0.0, -2.5]]}


def _decision(**explain: Any) -> dict[str, Any]:
    return {"router": "dlp", "explain": explain}


@pytest.mark.parametrize(
    "explain",
    [{"candidates": CANDIDATES}, {"layers": LAYERS}, {"candidates": CANDIDATES, "layers": LAYERS}],
    ids=lambda explain: "+".join(explain),
)
def test_a_decision_is_drawn(tmp_path: Path, explain: dict[str, Any]) -> None:
    path = tmp_path / "plot.png"
    plot_decision(_decision(**explain), "漢字 of $\\frac{two$ lines\n" * 20, path)
    assert path.read_bytes().startswith(PNG)


def test_what_is_drawn_follows_the_weights(tmp_path: Path) -> None:
    drawn = []
    for weights in ([[0.0, 1.0]], [[1.0, 0.0]], [[0.0, 0.0]]):
        plot_heat_map(weights, ["a", "b"], tmp_path / "map.png", "title")
        drawn.append((tmp_path / "map.png").read_bytes())
    assert len(set(drawn)) == 3
    assert drawn[0].startswith(PNG)


@pytest.mark.parametrize("explain", [{}, {"candidates": []}])
def test_nothing_to_draw_is_said(tmp_path: Path, explain: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="neither candidates nor weights"):
        plot_decision(_decision(**explain), "x", tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no/plot\.png: cannot be written"):
        plot_heat_map([[1.0]], ["a"], tmp_path / "no" / "plot.png")


def test_braid_route_asks_for_an_explanation_and_draws_it(
    braid: Callable[..., Any], server: Any, tmp_path: Path
) -> None:
    decision = {
        "id": "dec_1", "object": "routing.decision", "source": "computed", "router": "dlp",
        "router_version": "abc", "granularity": "request", "scores": [], "mixture": [],
        "explain": {"candidates": CANDIDATES},
    }  # fmt: skip
    server.answer("POST", "/v1/route", decision)
    path = tmp_path / "plot.png"
    result = braid("route", "one?", "--plot", path, "--url", server.url, "--key", "k")
    assert result.exit_code == 0, result.stderr
    assert path.read_bytes().startswith(PNG)
    assert server.asked[-1][3] == {"model": "auto", "prompt": "one?", "explain": True}


def test_the_demo_router_is_drawn_without_a_cluster(
    braid: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "plot.png"
    result = braid("route", "Show the average price of all products.", "--plot", path)
    assert result.exit_code == 0, result.stderr
    assert path.read_bytes().startswith(PNG)
