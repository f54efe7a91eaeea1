"""LoRA on the output head against PEFT: tied and untied, alone, in mixtures, on every path."""

from collections.abc import Callable, Mapping
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
from tests.support.engines import Answer, RunningEngine, make_request

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
    "ignore:Model has `tie_word_embeddings=True`",
)

VOCAB = 97
FAMILIES = ("llama", "llama_untied", "qwen3", "gemma")
ADAPTERS: dict[str, dict] = {  # no name is a part of a module's: PEFT would mix them up
    "alone": {"r": 5, "lora_alpha": 7, "target_modules": ["lm_head"]},
    "mixed": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["lm_head", "q_proj", "down_proj"],
        "rank_pattern": {"lm_head": 2},
        "alpha_pattern": {"lm_head": 9},
        "use_rslora": True,
    },
    "plain": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "up_proj"]},
}
SLOTS = {name: Slot(slot) for slot, name in enumerate(ADAPTERS)}
MIXTURES: dict[str, dict[str, float]] = {
    "base": {},
    "head": {"alone": 1.0},
    "both": {"mixed": 1.0},
    "layers": {"plain": 1.0},
    "two": {"alone": -0.6, "plain": 0.5},
    "three": {"alone": 0.4, "mixed": 0.7, "plain": -0.3},
}
GREEDY = SamplingParams(max_tokens=7, temperature=0.0, logprobs=VOCAB)


class WeightedAdapters:
    """A PEFT model whose adapters are added up with weights."""

    def __init__(self, base: Path, folder: Path) -> None:
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        self.model: peft.PeftModel | None = None
        with torch.random.fork_rng():
            torch.manual_seed(5)
            for name, options in ADAPTERS.items():
                config = peft.LoraConfig(**options, init_lora_weights=False)
                if self.model is None:
                    self.model = peft.get_peft_model(model, config, adapter_name=name)
                else:
                    self.model.add_adapter(name, config)
            for path, parameter in self.model.named_parameters():
                if "lora_" in path:
                    parameter.data.normal_(std=parameter.shape[1] ** -0.5)
        self.model.save_pretrained(str(folder), save_embedding_layers=False)
        self.model.eval()
        self.folder = folder

    def log_probs(self, mixture: Mapping[str, float], tokens: list[int]) -> torch.Tensor:
        """Compute [tokens, vocabulary] in fp32."""
        with torch.inference_mode():
            if not mixture:
                with self.model.disable_adapter():
                    return self.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
            self.model.base_model.set_adapter(list(mixture))
            layers = [m for m in self.model.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
            before = [dict(layer.scaling) for layer in layers]
            for layer in layers:
                for name, weight in mixture.items():
                    if name in layer.scaling:
                        layer.scaling[name] *= weight
            found = self.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
            for layer, scaling in zip(layers, before, strict=True):
                layer.scaling.update(scaling)
            return found


@pytest.fixture(scope="module")
def oracle(
    tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], WeightedAdapters]:
    made: dict[str, WeightedAdapters] = {}

    def make(family: str) -> WeightedAdapters:
        if family not in made:
            folder = tmp_path_factory.mktemp("adapters")
            made[family] = WeightedAdapters(tiny_model(family), folder)
        return made[family]

    return make


@pytest.fixture
def engine(
    running_engine: Callable[..., RunningEngine], oracle: Callable[[str], WeightedAdapters]
) -> Callable[..., RunningEngine]:
    def make(family: str = "llama", **config: object) -> RunningEngine:
        running = running_engine(family, **{"max_batch_tokens": 16, **config})
        shapes = BaseShapes("base", running.built.module_shapes)
        for name, slot in SLOTS.items():
            folder = oracle(family).folder / name
            running.load(slot, load_adapter(folder, shapes, AdapterConfig()).tensors)
        return running

    return make


def mixture(name: str) -> tuple[tuple[Slot, float], ...]:
    return tuple((SLOTS[adapter], weight) for adapter, weight in MIXTURES[name].items())


def prompt(name: str) -> list[int]:
    salt = list(MIXTURES).index(name)
    return [(5 * i * i + salt) % VOCAB for i in range(3 + 4 * salt)]


def rows(told: list) -> torch.Tensor:
    found = torch.empty(len(told), VOCAB)
    for row, logprobs in enumerate(told):
        ids, values = zip(*logprobs.top, strict=True)
        found[row, list(ids)] = torch.tensor(values)
    return found


def ask_all(running: RunningEngine, sampling: SamplingParams = GREEDY) -> dict[str, Answer]:
    for name in MIXTURES:
        running.submit(make_request(name, prompt(name), sampling), mixture(name))
    running.wait(*MIXTURES)
    return running.answers


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "modules"])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_pefts_in_one_mixed_batch(engine, oracle, family: str, fused: bool) -> None:
    running = engine(family)
    if not fused:
        running.engine._runner._fused = None
    for name, answer in ask_all(running).items():
        expected = oracle(family).log_probs(MIXTURES[name], prompt(name) + answer.tokens)
        expected = expected[len(prompt(name)) - 1 : -1]
        assert_close("lora", rows(answer.logprobs), expected)
        assert answer.tokens == expected.argmax(dim=-1).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_scored_with_the_head(engine, oracle, family: str) -> None:
    sampling = SamplingParams(max_tokens=2, temperature=0.0, prompt_logprobs=VOCAB)
    for name, answer in ask_all(engine(family), sampling).items():
        expected = oracle(family).log_probs(MIXTURES[name], prompt(name))[:-1]
        assert_close("lora", rows(answer.prompt_logprobs), expected)


def test_a_head_changes_answers_and_embeddings_stay(oracle) -> None:
    """Tied weights are adapted where they make logits, not where they embed."""
    tokens = prompt("three")
    log_probs = {name: oracle("llama").log_probs(MIXTURES[name], tokens) for name in MIXTURES}
    for name in ("head", "both", "two", "three"):
        assert (log_probs[name] - log_probs["base"]).abs().max() > 0.5


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_rows_without_it_keep_their_bits(engine, quantize: str) -> None:
    """They keep them alone, and next to rows with LoRA on the head, in prompts and in decoding."""
    sampling = SamplingParams(
        max_tokens=9, temperature=0.0, logprobs=VOCAB, prompt_logprobs=VOCAB, ignore_eos=True
    )
    plain = ("base", "layers")
    alone = engine(quantize=quantize)
    for name in plain:
        alone.ask(make_request(name, prompt(name), sampling), mixture(name))
    together = ask_all(engine(quantize=quantize, max_batch_tokens=64), sampling)
    for name in plain:
        assert together[name].tokens == alone.answers[name].tokens
        assert together[name].logprobs == alone.answers[name].logprobs
        assert together[name].prompt_logprobs == alone.answers[name].prompt_logprobs


def test_int8_weights_get_the_same_addition(engine) -> None:
    """Over equal hidden states it grows with the weight, and is nearly that over fp32."""
    sampling = SamplingParams(max_tokens=1, temperature=0.0, logprobs=VOCAB)
    added = {}
    for quantize in ("none", "int8"):
        running = engine(quantize=quantize)
        found = {}
        for weight in (0.0, 1.0, 2.0):
            request = make_request(f"w{weight}", prompt("three"), sampling)
            answer = running.ask(request, ((SLOTS["alone"], weight),))
            found[weight] = rows(answer.logprobs)[0]
        one, two = (found[weight] - found[0.0] for weight in (1.0, 2.0))
        added[quantize] = one - one.mean()
        assert_close("lora", two - two.mean(), 2 * added[quantize])
    apart = (added["int8"] - added["none"]).norm() / added["none"].norm()
    assert apart < 0.1


def test_constraints_are_applied_after_the_head(engine, oracle) -> None:
    banned = oracle("llama").log_probs(MIXTURES["head"], prompt("head"))[-1].argmax().item()
    sampling = SamplingParams(max_tokens=1, temperature=0.0, logit_bias=((banned, -100.0),))
    answer = engine().ask(make_request("r", prompt("head"), sampling), mixture("head"))
    expected = oracle("llama").log_probs(MIXTURES["head"], prompt("head"))[-1].clone()
    expected[banned] = -torch.inf
    assert answer.tokens == [expected.argmax().item()]


def test_only_adapters_with_it_carry_it(engine) -> None:
    bank = engine().built.bank
    head = len(bank.sites) - 1
    assert [bank.touches(slot, head) for slot in SLOTS.values()] == [True, True, False]
    shapes = {"lm_head": 5}
    assert bank.nbytes(SLOTS["alone"]) == bank.required_nbytes(shapes)
    assert bank.nbytes(SLOTS["plain"]) == bank.required_nbytes(
        {
            path: 8
            for path, _ in (part for site in bank.sites for part in site.out_slices)
            if path.rpartition(".")[2] in ADAPTERS["plain"]["target_modules"]
        }
    )
