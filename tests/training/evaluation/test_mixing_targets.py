"""Routers that decide inside the engine, scored against PEFT's model with the same weights."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cluster.adapters.format.manifest import read_manifest
from cluster.base_model.source import ModelLocation
from router_service.flow.flow_artifact import save_gate
from router_service.flow.flow_schema import FlowHyperparameters
from router_service.flow.gate import FlowGate
from router_service.milora.milora_artifact import save_milora
from router_service.milora.milora_network import MiloraRouter, tensor_shapes
from router_service.milora.milora_schema import MiloraHyperparameters
from router_service.milora.rational import gelu_coefficients
from tests.support.peft_oracle import ALL_MODULES, WeightedPeft, make_adapters
from training.base_model import load_base
from training.encoding import chat_prompt_ids
from training.evaluation.evaluation_run import evaluate
from training.evaluation.target import EvalConfig

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

LAYERS, WIDTH = 2, 32
PAIRS = [("say ab", "yes it is"), ("say a longer thing", "no"), ("say x", "no no no")]
OPTIONS: dict[str, dict[str, Any]] = {
    "one": {"r": 4, "lora_alpha": 8, "target_modules": list(ALL_MODULES)},
    "two": {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]},
}


@pytest.fixture(scope="module")
def adapters(chat_base: ModelLocation, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    folder = tmp_path_factory.mktemp("adapters")
    base = transformers.AutoModelForCausalLM.from_pretrained(chat_base.path, dtype=torch.float32)
    return make_adapters(base.eval(), OPTIONS, folder, std=0.5), folder


@pytest.fixture
def config(chat_base: ModelLocation, adapters: tuple, tmp_path: Path) -> EvalConfig:
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"prompt": p, "completion": c}) for p, c in PAIRS))
    return EvalConfig(
        data=data,
        metric="perplexity",
        adapters=adapters[1],
        router=tmp_path / "router",
        base=str(chat_base.path),
        cache_dir=tmp_path,
        threads=1,
    )


def perplexity(base: ModelLocation, oracle: Any) -> float:
    """Return the perplexity; ``oracle(prompt length)`` gives the model for a prompt."""
    _, tokenizer = load_base(base.path)
    nats, tokens = 0.0, 0
    for prompt, completion in PAIRS:
        ids = chat_prompt_ids(tokenizer, prompt)
        wanted = tokenizer(completion, add_special_tokens=False)["input_ids"]
        wanted = [*wanted, tokenizer.eos_token_id]
        model = oracle(len(ids))
        logp = model.logits(ids + wanted).log_softmax(-1)
        model.close()
        nats += sum(float(logp[len(ids) + i - 1, token]) for i, token in enumerate(wanted))
        tokens += len(wanted)
    return math.exp(-nats / tokens)


@pytest.mark.slow
def test_a_gate_is_scored_as_it_serves(
    config: EvalConfig, adapters: tuple, chat_base: ModelLocation
) -> None:
    model, folder = adapters
    order = ("two", "one")
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(LAYERS, 2, WIDTH, generator=generator)
    bias = torch.randn(LAYERS, 2, generator=generator)
    assert config.router is not None
    save_gate(
        config.router,
        adapters={name: read_manifest(folder / name)[0].digest for name in order},
        hyperparameters=FlowHyperparameters(temperature=1.1, layers=LAYERS, hidden_size=WIDTH),
        base_digest=chat_base.digest,
        data_digest="",
        weight=weight,
        bias=bias,
    )
    gate = FlowGate(weight, bias, 1.1)

    def oracle(_: int) -> WeightedPeft:
        return WeightedPeft(model, order, lambda layer, x: gate.weights(layer, None, x))

    assert evaluate(config).value == pytest.approx(perplexity(chat_base, oracle), rel=1e-4)


@pytest.mark.slow
def test_a_prompts_masks_do_not_see_the_completion(
    config: EvalConfig, adapters: tuple, chat_base: ModelLocation
) -> None:
    model, folder = adapters
    generator = torch.Generator().manual_seed(4)
    numerator, denominator = gelu_coefficients()
    tensors = {
        name: torch.randn(shape, generator=generator)
        for name, shape in tensor_shapes(LAYERS, WIDTH, "self_attention").items()
    }
    tensors |= {
        "numerator": numerator.repeat(LAYERS, 1),
        "denominator": denominator.repeat(LAYERS, 1),
    }
    assert config.router is not None
    save_milora(
        config.router,
        alias="one",
        digest=read_manifest(folder / "one")[0].digest,
        hyperparameters=MiloraHyperparameters(top_k=2, layers=LAYERS, hidden_size=WIDTH),
        base_digest=chat_base.digest,
        data_digest="",
        tensors=tensors,
    )
    router = MiloraRouter(tensors, top_k=2)

    def oracle(prompt: int) -> WeightedPeft:
        def weigh(layer: int, hidden: torch.Tensor) -> torch.Tensor:
            mask = router.masks(layer, hidden[0, :prompt])
            return mask.expand(1, hidden.shape[1], 1, 7)

        return WeightedPeft(model, ("one",), weigh)

    assert evaluate(config).value == pytest.approx(perplexity(chat_base, oracle), rel=1e-4)
