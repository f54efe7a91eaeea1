"""The engine's logits with adapters against PEFT's, token by token.

Adapters go the whole way: written by PEFT, read by our loader, put into the bank, applied in mixed
batches. Mixtures are compared with PEFT's exact merge (``cat``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import peft
import pytest
import torch
import transformers

from cluster.adapters.loader import load_adapter
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AdapterConfig
from cluster.domain.ids import Slot
from cluster.domain.request import SamplingParams
from kernels.tolerances import assert_close
from tests.conftest import TINY_FAMILIES
from tests.support.engines import RunningEngine, make_request

pytestmark = pytest.mark.filterwarnings(
    # PEFT reads a property that transformers has renamed.
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

VOCAB = 97
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ADAPTERS: dict[str, dict] = {
    "plain": {"r": 8, "lora_alpha": 16, "target_modules": ALL},
    "small": {"r": 3, "lora_alpha": 5, "target_modules": ALL},
    "rslora": {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": ALL},
    "patterns": {
        "r": 6,
        "lora_alpha": 4,
        "target_modules": ALL,
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 5},
        "alpha_pattern": {"v_proj": 9, "layers.0.mlp.up_proj": 1},
    },
    "attention only": {"r": 5, "lora_alpha": 10, "target_modules": ["q_proj", "v_proj"]},
    "one layer": {
        "r": 8,
        "lora_alpha": 8,
        "target_modules": ["k_proj", "gate_proj", "down_proj"],
        "layers_to_transform": [1],
    },
}

MIXTURES: dict[str, dict[str, float]] = {
    "base": {},
    "single": {"plain": 1.0},
    "weighted single": {"small": 0.35},
    "rslora alone": {"rslora": 1.0},
    "patterns alone": {"patterns": 1.0},
    "partial modules": {"attention only": 1.0},
    "partial layers": {"one layer": 1.0},
    "two": {"plain": 0.7, "small": 0.3},
    "negative": {"plain": 1.3, "rslora": -0.6},
    "four kinds": {"plain": 0.4, "small": 0.9, "rslora": 0.2, "patterns": -0.5},
    "different modules": {"plain": 0.5, "attention only": 0.8, "one layer": -1.1},
}


@dataclass
class Oracle:
    """A PEFT model with all adapters, and the folders they were saved to."""

    model: peft.PeftModel
    folders: Mapping[str, Path]

    def log_probs(self, mixture: Mapping[str, float], tokens: list[int]) -> torch.Tensor:
        """Compute [tokens, vocabulary] in fp32, with the mixture merged by concatenation."""
        ids = torch.tensor([tokens])
        with torch.inference_mode():
            if not mixture:
                with self.model.disable_adapter():
                    return self.model(ids).logits[0].log_softmax(dim=-1)
            if list(mixture.values()) == [1.0]:
                self.model.set_adapter(next(iter(mixture)))
                return self.model(ids).logits[0].log_softmax(dim=-1)
            # The merge inherits use_rslora from its first adapter, which would scale it twice.
            assert next(iter(mixture)) != "rslora"
            name = repr(mixture).replace(".", "_")
            if name not in self.model.peft_config:
                self.model.add_weighted_adapter(
                    list(mixture), list(mixture.values()), name, combination_type="cat"
                )
            self.model.set_adapter(name)
            return self.model(ids).logits[0].log_softmax(dim=-1)


@pytest.fixture(scope="module")
def oracle(
    tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Oracle]:
    made: dict[str, Oracle] = {}

    def make(family: str) -> Oracle:
        if family in made:
            return made[family]
        base = transformers.AutoModelForCausalLM.from_pretrained(
            tiny_model(family), dtype=torch.float32
        )
        model: peft.PeftModel | None = None
        with torch.random.fork_rng():
            torch.manual_seed(5)
            for name, options in ADAPTERS.items():
                config = peft.LoraConfig(**options, init_lora_weights=False)
                if model is None:
                    model = peft.get_peft_model(base, config, adapter_name=name)
                else:
                    model.add_adapter(name, config)
            for path, parameter in model.named_parameters():
                if "lora_" in path:
                    parameter.data.normal_(std=parameter.shape[1] ** -0.5)
        folder = tmp_path_factory.mktemp("adapters")
        model.save_pretrained(str(folder))
        made[family] = Oracle(model.eval(), {name: folder / name for name in ADAPTERS})
        return made[family]

    return make


def load_all(engine: RunningEngine, oracle: Oracle) -> dict[str, Slot]:
    shapes = BaseShapes("base", engine.built.module_shapes)
    slots = {}
    for slot, (name, folder) in enumerate(oracle.folders.items()):
        engine.load(slot, load_adapter(folder, shapes, AdapterConfig()).tensors)
        slots[name] = Slot(slot)
    return slots


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_logits_agree_with_peft_in_one_mixed_batch(running_engine, oracle, family: str):
    engine: RunningEngine = running_engine(family, max_batch_size=16, max_batch_tokens=48)
    slots = load_all(engine, oracle(family))
    sampling = SamplingParams(max_tokens=7, temperature=0.0, logprobs=VOCAB)
    prompts = {
        name: [(5 * i * i + salt) % VOCAB for i in range(3 + 4 * salt)]
        for salt, name in enumerate(MIXTURES)
    }
    for name, mixture in MIXTURES.items():
        terms = tuple((slots[adapter], weight) for adapter, weight in mixture.items())
        engine.submit(make_request(name, prompts[name], sampling), terms)
    engine.wait(*MIXTURES)
    for name, mixture in MIXTURES.items():
        answer = engine.answers[name]
        expected = oracle(family).log_probs(mixture, prompts[name] + answer.tokens)
        expected = expected[len(prompts[name]) - 1 : -1]
        found = torch.empty_like(expected)
        for row, logprobs in enumerate(answer.logprobs):
            ids, values = zip(*logprobs.top, strict=True)
            found[row, list(ids)] = torch.tensor(values)
        assert_close("lora", found, expected)
        assert answer.tokens == expected.argmax(dim=-1).tolist()


def test_the_adapters_differ_from_the_base_and_each_other(oracle):
    tokens = list(range(20))
    answers = [oracle("llama").log_probs(mixture, tokens) for mixture in MIXTURES.values()]
    for i, one in enumerate(answers):
        for other in answers[:i]:
            assert (one - other).abs().max() > 0.05
