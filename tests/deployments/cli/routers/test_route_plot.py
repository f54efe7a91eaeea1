"""Pictures of decisions, and where ``braid route`` gets them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError
from deployments.cli.routers import route_answer, route_plot
from deployments.cli.routers.route_plot import plot_decision, plot_gate, plot_heat_map

PNG = b"\x89PNG\r\n\x1a\n"
CANDIDATES = [
    {"name": "sql", "probability": 0.7, "kept": True, "weight": 0.6},
    {"name": "(base)", "probability": 0.3, "kept": False, "weight": -0.2},
]
LAYERS = {"columns": ["q_proj", "up_proj"], "weights": [[1.0, 0.0], [0.0, -2.5]]}
GATED = {
    "id": "dec_1", "object": "routing.decision", "source": "computed", "router": "both",
    "router_version": "abc", "granularity": "token",
    "mixture": [{"name": "cron", "weight": 1.0}, {"name": "sql", "weight": 1.0}],
    "scores": [
        {"name": "cron", "probability": 1.0, "kept": True},
        {"name": "sql", "probability": 1.0, "kept": True},
    ],
}  # fmt: skip
MASKED = GATED | {
    "router": "forms",
    "granularity": "prompt",
    "mixture": [{"name": "forms", "weight": 1.0}],
    "scores": [],
}
GATE = {
    "router": "both",
    "candidates": [{**score, "weight": 1.0} for score in GATED["scores"]],
    "adapters": ["cron", "sql"],
    "gate_weights": [
        [[0.25, 0.75], [0.5, 0.5], [1.25, -0.5]],
        [[0.0, 1.0], [0.5, 0.5], [0.5, 0.75]],
    ],
}
"""Two tokens, three layers, two adapters."""


def test_a_gate_is_drawn_by_adapter_layer_and_token(tmp_path: Path) -> None:
    drawn = []
    for weights in (GATE["gate_weights"], [[[1.0, 0.0]] * 3] * 2, [[[0.0, 1.0]] * 3] * 2):
        decision = GATED | {"explain": GATE | {"gate_weights": weights}}
        decision["answer"] = {"text": "", "tokens": ["$\\frac", " 漢\n"]}
        words = plot_decision(decision, "one?", tmp_path / "gate.png")
        assert words == "weights of cron, sql by layer and token of the answer"
        drawn.append((tmp_path / "gate.png").read_bytes())
    assert len(set(drawn)) == 3
    assert drawn[0].startswith(PNG)


def test_a_gates_maps_share_one_scale_and_name_the_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(route_plot, "save", lambda figure, _: figures.append(figure))
    tokens = ["*/", " SELECT" + 30 * "\n"]
    weights = {"cron": [[0.5, 0.25], [1.0, -2.0]], "sql": [[0.0, 1.0], [3.0, 0.5]]}
    plot_gate(weights, tokens, tmp_path / "gate.png")
    *maps, scale = figures[0].axes
    assert [axes.get_title(loc="left") for axes in maps] == ["cron", "sql"]
    assert [axes.images[0].get_array().tolist() for axes in maps] == list(weights.values())
    assert {axes.images[0].get_clim() for axes in maps} == {(-3.0, 3.0)}
    assert [label.get_text() for label in maps[-1].get_xticklabels()] == ["*/", "␣SELECT" + 9 * "↵"]
    assert (maps[-1].get_xlabel(), maps[0].get_ylabel()) == ("generated token", "layer")
    assert scale.get_ylabel() == "weight"


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 256])
def test_answers_of_any_length_are_drawn(tmp_path: Path, count: int) -> None:
    weights = {name: [[0.5] * count] * 30 for name in ("cron", "sql", "json")}
    plot_gate(weights, [" a"] * (count - 1), tmp_path / "gate.png")
    assert (tmp_path / "gate.png").read_bytes().startswith(PNG)


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


def test_a_fallback_is_not_drawn(tmp_path: Path) -> None:
    fallback = _decision(candidates=[]) | {"source": "fallback", "granularity": "request"}
    with pytest.raises(ConfigError, match="the base model alone"):
        plot_decision(fallback, "x", tmp_path / "plot.png")


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


def _answer(explain: dict[str, Any]) -> dict[str, Any]:
    tokens = [{"token": token, "logprob": -0.1} for token in ("0 6", "<|im_end|>")]
    choice = {"message": {"content": "0 6"}, "logprobs": {"content": tokens}, "explain": explain}
    return {"choices": [choice]}


def _asked(server: Any, path: str) -> list[Any]:
    return [body for _, asked, _, body in server.asked if asked == path]


@pytest.fixture
def gated(server: Any) -> Any:
    """A server whose first router is a gate."""
    candidates = {"explain": {"candidates": GATE["candidates"]}}
    server.answer("POST", "/v1/route", GATED | candidates)
    server.answer("POST", "/v1/chat/completions", _answer(GATE))
    return server


@pytest.fixture
def masked(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server whose first router is MiLoRA's; no prompt was asked before."""
    monkeypatch.setattr(route_answer, "KEPT_WITHIN_S", 0.3)
    monkeypatch.setattr(route_answer, "LOOK_AGAIN_S", 0.01)
    server.answer("POST", "/v1/route", MASKED | {"explain": {"candidates": []}})
    explain = {"router": "forms", "candidates": [], "layers": LAYERS}
    headers = {"x-braid-decision-source": "computed"}
    server.answer("POST", "/v1/chat/completions", _answer(explain), headers=headers)
    return server


def test_a_gate_is_drawn_from_an_answer(
    braid: Callable[..., Any], gated: Any, tmp_path: Path
) -> None:
    path = tmp_path / "plot.png"
    at = ("--url", gated.url, "--key", "k")
    result = braid("route", "one?", "--plot", path, "--tokens", 7, *at)
    assert result.exit_code == 0, result.stderr
    assert path.read_bytes().startswith(PNG)
    assert _asked(gated, "/v1/chat/completions") == [
        {
            "model": "auto:both",
            "messages": [{"role": "user", "content": "one?"}],
            "max_tokens": 7,
            "temperature": 0,
            "explain": True,
            "logprobs": True,
        }
    ]
    shown = " ".join(result.stdout.split())
    assert "cron 0.500 0.000 1.250 sql 0.500 -0.500 1.000 over 2 tokens and 3 layers" in shown
    assert "answer 0 6" in shown
    assert f"drawn into {path}: weights of cron, sql by layer and token of the answer" in shown
    assert "probability" not in shown


def test_a_gate_has_no_probabilities_without_a_picture_either(
    braid: Callable[..., Any], gated: Any
) -> None:
    result = braid("route", "one?", "--url", gated.url, "--key", "k")
    assert result.exit_code == 0, result.stderr
    assert "cron, sql: weighed for every token in every layer" in result.stdout
    assert "probability" not in result.stdout
    assert "1.0" not in result.stdout
    assert _asked(gated, "/v1/chat/completions") == []


def test_a_gates_weights_are_part_of_the_json(
    braid: Callable[..., Any], gated: Any, tmp_path: Path
) -> None:
    plot = ("--plot", tmp_path / "plot.png")
    result = braid("route", "one?", "--json", *plot, "--url", gated.url, "--key", "k")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told == GATED | {
        "explain": GATE,
        "answer": {"text": "0 6", "tokens": ["0 6", "<|im_end|>"]},
    }


def test_a_base_without_a_chat_template_is_asked_plainly(
    braid: Callable[..., Any], gated: Any, tmp_path: Path
) -> None:
    refusal = {"error": {"message": "this model has no chat template", "code": "invalid_request"}}
    gated.answer("POST", "/v1/chat/completions", refusal, status=400)
    choice = {"text": "0 6", "logprobs": {"tokens": ["0 6", "</s>"]}, "explain": GATE}
    gated.answer("POST", "/v1/completions", {"choices": [choice]})
    path = tmp_path / "plot.png"
    result = braid("route", "one?", "--plot", path, "--url", gated.url, "--key", "k")
    assert result.exit_code == 0, result.stderr
    assert path.read_bytes().startswith(PNG)
    (asked,) = _asked(gated, "/v1/completions")
    assert (asked["prompt"], asked["max_tokens"], asked["explain"]) == ("one?", 24, True)


@pytest.mark.slow
def test_masks_of_a_new_prompt_are_drawn(
    braid: Callable[..., Any], masked: Any, tmp_path: Path
) -> None:
    path = tmp_path / "plot.png"
    result = braid("route", "one?", "--plot", path, "--url", masked.url, "--key", "k")
    assert result.exit_code == 0, result.stderr
    assert path.read_bytes().startswith(PNG)
    assert _asked(masked, "/v1/route")[1:] == [
        {
            "model": "auto:forms",
            "messages": [{"role": "user", "content": "one?"}],
            "explain": True,
        }
    ]
    shown = " ".join(result.stdout.split())
    assert "source computed" in shown
    assert "q_proj 0.500 0.000 1.000 up_proj -1.250 -2.500 0.000 over 2 layers" in shown
    assert f"drawn into {path}: weights by layer and module" in shown


def test_masks_that_are_not_kept_are_said(
    braid: Callable[..., Any], masked: Any, tmp_path: Path
) -> None:
    masked.answer("POST", "/v1/chat/completions", _answer({"router": "forms", "candidates": []}))
    path = tmp_path / "plot.png"
    result = braid("route", "one?", "--plot", path, "--url", masked.url, "--key", "k")
    assert result.exit_code == 1
    assert "'forms': the modules that prefill chose are not kept" in result.stderr
    assert len(_asked(masked, "/v1/route")) > 2
    assert not path.exists()


def test_a_router_that_tells_no_weights_by_layer_is_named(
    braid: Callable[..., Any], gated: Any, tmp_path: Path
) -> None:
    answer = _answer({"router": "both", "candidates": []})
    gated.answer("POST", "/v1/chat/completions", answer)
    path = tmp_path / "plot.png"
    result = braid("route", "one?", "--plot", path, "--url", gated.url, "--key", "k")
    assert result.exit_code == 1
    assert "'both' tells no weights by layer" in result.stderr


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("plot.jpg", "its name ends in .png"),
        ("plot", "its name ends in .png"),
        ("no/plot.png", "cannot be written"),
        ("folder.png", "cannot be written"),
    ],
)
def test_a_picture_that_cannot_be_is_refused_before_asking(
    braid: Callable[..., Any], gated: Any, tmp_path: Path, name: str, refused: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    path = tmp_path / name
    result = braid("route", "one?", "--plot", path, "--url", gated.url, "--key", "k")
    assert result.exit_code == 1
    assert f"--plot {path}" in result.stderr
    assert refused in result.stderr
    assert gated.asked == []
    assert not path.is_file()


def test_a_refused_question_leaves_no_file_and_an_older_picture_as_it_was(
    braid: Callable[..., Any], server: Any, tmp_path: Path
) -> None:
    old = tmp_path / "old.png"
    old.write_bytes(b"older")
    for path in (tmp_path / "new.png", old):
        result = braid("route", "one?", "--plot", path, "--url", server.url, "--key", "k")
        assert result.exit_code == 1
    assert sorted(tmp_path.glob("*.png")) == [old]
    assert old.read_bytes() == b"older"
