"""Evaluations through the engine, against transformers and PEFT on a tiny base."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

from cluster.base_model.source import ModelLocation
from cluster.errors import ConfigError, TrainingDataError
from router_service.artifacts.router_artifact import RouterManifest, save_artifact
from router_service.dlp.dlp_schema import DlpHyperparameters
from router_service.dlp.mini_mlp import NetworkConfig, tensor_shapes
from router_service.routers.features import FeatureConfig
from router_service.routers.static import save_static
from tests.support.peft_oracle import ALL_MODULES, make_adapters
from training.base_model import load_base
from training.encoding import chat_prompt_ids
from training.evaluation.evaluation_run import evaluate
from training.evaluation.target import EvalConfig

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

PROMPTS = [f"say {word}" for word in ("ab", "cd", "ef", "gh", "ij")]
COMPLETIONS = ["yes it is", "no", "no", "yes it is", "no"]


class Oracle:
    """Scores by plain transformers and PEFT."""

    def __init__(self, base: ModelLocation, folder: Path) -> None:
        self._base = base
        self.folder = folder
        options: dict[str, dict[str, Any]] = {
            "one": {"r": 4, "lora_alpha": 8, "target_modules": list(ALL_MODULES)},
            "two": {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]},
        }
        make_adapters(self._load(), options, folder, std=0.5)
        self._tokenizer = load_base(base.path)[1]

    def _load(self) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(
            self._base.path, dtype=torch.float32
        ).eval()

    def model(self, *aliases: str, weights: tuple[float, ...] = ()) -> Any:
        model: Any = self._load()
        for alias in aliases:
            if isinstance(model, peft.PeftModel):
                model.load_adapter(str(self.folder / alias), alias)
            else:
                model = peft.PeftModel.from_pretrained(model, self.folder / alias, alias)
        if weights:
            model.add_weighted_adapter(list(aliases), list(weights), "m", combination_type="cat")
            model.set_adapter("m")
        return model.eval()

    def logprob(self, model: Any, prompt: str, completion: str) -> tuple[float, int]:
        ids = chat_prompt_ids(self._tokenizer, prompt)
        wanted = [
            *self._tokenizer(completion, add_special_tokens=False)["input_ids"],
            self._tokenizer.eos_token_id,
        ]
        with torch.inference_mode():
            logits = model(torch.tensor([ids + wanted])).logits[0].log_softmax(dim=-1)
        total = sum(float(logits[len(ids) + i - 1, token]) for i, token in enumerate(wanted))
        return total, len(wanted)

    def perplexity(self, model: Any) -> float:
        pairs = [self.logprob(model, p, c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
        return float(np.exp(-sum(nats for nats, _ in pairs) / sum(n for _, n in pairs)))

    def choose(self, model: Any, prompt: str, choices: tuple[str, ...]) -> str:
        return max(choices, key=lambda choice: self.logprob(model, prompt, choice)[0])

    def greedy(self, model: Any, prompt: str, n: int) -> str:
        ids = torch.tensor([chat_prompt_ids(self._tokenizer, prompt)])
        out = model.generate(input_ids=ids, do_sample=False, max_new_tokens=n)
        return str(self._tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


@pytest.fixture(scope="module")
def oracle(chat_base: ModelLocation, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return Oracle(chat_base, tmp_path_factory.mktemp("adapters"))


@pytest.fixture
def config(chat_base: ModelLocation, oracle: Oracle, tmp_path: Path) -> EvalConfig:
    data = tmp_path / "data.jsonl"
    lines = [
        json.dumps({"prompt": p, "completion": c})
        for p, c in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    data.write_text("\n".join(lines))
    return EvalConfig(
        data=data, adapters=oracle.folder, base=str(chat_base.path), cache_dir=tmp_path
    )


def _changed(config: EvalConfig, **changes: Any) -> EvalConfig:
    return EvalConfig.model_validate(config.model_dump() | changes)


TARGETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "base": ({}, {}),
    "adapter": ({"adapter": "one"}, {"aliases": ("one",)}),
    "mixture": (
        {"mixture": {"one": 0.6, "two": -0.8}},
        {"aliases": ("one", "two"), "weights": (0.6, -0.8)},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_perplexity_and_choice_are_those_of_the_reference(
    config: EvalConfig, oracle: Oracle, target: str
) -> None:
    changes, wanted = TARGETS[target]
    if "adapter" in changes:
        changes = {"adapter": oracle.folder / changes["adapter"]}
    model = oracle.model(*wanted.get("aliases", ()), weights=wanted.get("weights", ()))
    by_perplexity = evaluate(_changed(config, metric="perplexity", **changes))
    assert by_perplexity.value == pytest.approx(oracle.perplexity(model), rel=1e-4)
    assert by_perplexity.interval is None
    by_choice = evaluate(_changed(config, metric="choice", **changes))
    chosen = [oracle.choose(model, prompt, ("no", "yes it is")) for prompt in PROMPTS]
    assert [item.answered for item in by_choice.scored] == chosen
    right = sum(a == b for a, b in zip(chosen, COMPLETIONS, strict=True))
    assert by_choice.value == right / 5


@pytest.mark.slow
def test_exact_matches_are_greedy_answers(config: EvalConfig, oracle: Oracle) -> None:
    model = oracle.model("one")
    seen: list[tuple[str, int, int]] = []
    report = evaluate(_changed(config, adapter=oracle.folder / "one"), lambda *at: seen.append(at))
    limit = len("yes it is") + 1 + 4
    answers = [oracle.greedy(model, prompt, limit) for prompt in PROMPTS]
    assert [item.answered for item in report.scored] == answers
    assert report.value == 0
    assert report.interval == pytest.approx((0, 0.4345), abs=1e-3)
    assert seen[-1] == ("answered", 5, 5)


@pytest.mark.slow
def test_a_static_router_is_its_mixture(config: EvalConfig, tmp_path: Path) -> None:
    save_static(tmp_path / "router", {"one": 0.6, "two": -0.8})
    routed = evaluate(_changed(config, metric="perplexity", router=tmp_path / "router"))
    mixed = evaluate(_changed(config, metric="perplexity", mixture={"one": 0.6, "two": -0.8}))
    assert routed.value == mixed.value
    assert routed.target == "router"
    assert routed.mean_fan_out == 2
    json.dumps(routed.as_json())


@pytest.mark.slow
def test_a_router_decides_for_each_prompt(config: EvalConfig, tmp_path: Path) -> None:
    tiny = DlpHyperparameters(
        features=FeatureConfig(buckets=64), network=NetworkConfig(width=4, hidden=(6, 5, 3))
    )
    rng = np.random.default_rng(0)
    manifest = RouterManifest(
        kind="dlp", candidates=("", "one", "two"),
        hyperparameters=tiny.model_dump(mode="json"), data_digest="d",
    )  # fmt: skip
    shapes = tensor_shapes(tiny.network, 64, 3)
    save_artifact(tmp_path / "r", manifest, {n: rng.normal(size=s) * 3 for n, s in shapes.items()})
    report = evaluate(
        _changed(
            config, metric="perplexity", router=tmp_path / "r",
            router_options={"method": "top_k", "top_k": 1},
        )
    )  # fmt: skip
    alone: dict[Any, Any] = {
        (): evaluate(_changed(config, metric="perplexity")),
        (("one", 1.0),): evaluate(_changed(config, metric="perplexity", mixture={"one": 1.0})),
        (("two", 1.0),): evaluate(_changed(config, metric="perplexity", mixture={"two": 1.0})),
    }
    for index, item in enumerate(report.scored):
        expected = alone[item.mixture].scored[index].score
        assert item.score == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mixture": {"three": 1.0}}, ConfigError, "no adapter 'three'; there are: one, two"),
        ({"mixture": {"one": 1.0}, "adapters": None}, ConfigError, "adapters: missing"),
        ({"mixture": {"one": 1.0}, "adapter": Path("x")}, ConfigError, "mixture: not together"),
        ({"metric": "value"}, TrainingDataError, "example 1: answer: the metric needs a number"),
    ],
)
def test_what_cannot_be_evaluated_is_said(
    config: EvalConfig, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate(_changed(config, **changes))


def test_one_completion_is_no_choice(config: EvalConfig) -> None:
    with pytest.raises(TrainingDataError, match="1 different completions are not a choice"):
        evaluate(_changed(config, metric="choice", limit=1))


def test_values_are_compared_with_the_answer(config: EvalConfig, oracle: Oracle) -> None:
    config.data.write_text(json.dumps({"prompt": "p", "completion": "X=1", "answer": 1}))
    assert evaluate(_changed(config, metric="value")).value == 0
