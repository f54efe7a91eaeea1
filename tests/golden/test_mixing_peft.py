"""Gates and prompt routers in the engine against PEFT's model with weights per layer and token."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import peft
import pytest
import torch
import transformers

from cluster.adapters.loader import load_adapter
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AdapterConfig
from cluster.domain.decision import SiteWeights
from cluster.domain.ids import Slot
from cluster.domain.request import FinishReason, SamplingParams
from cluster.engine.mixing import Mixing
from kernels.tolerances import assert_close
from router_service.flow.gate import FlowGate, initial_bias
from router_service.milora.milora_network import MiloraRouter, tensor_shapes
from router_service.milora.rational import gelu_coefficients
from tests.support.engines import Answer, RunningEngine, make_request
from tests.support.peft_oracle import ALL_MODULES, WeightedPeft, make_adapters

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

VOCAB, LAYERS, WIDTH = 97, 2, 64
FAMILIES = ("llama", "qwen3", "gemma")
SAMPLING = SamplingParams(max_tokens=6, temperature=0.0, logprobs=VOCAB)
OPTIONS = {
    "zh": {"r": 8, "lora_alpha": 16, "target_modules": list(ALL_MODULES)},
    "math": {"r": 3, "lora_alpha": 2, "target_modules": list(ALL_MODULES)},
    "partial": {"r": 4, "lora_alpha": 9, "target_modules": ["q_proj", "v_proj", "down_proj"]},
}
SLOTS = {name: Slot(slot) for slot, name in enumerate(OPTIONS)}


@dataclass
class Counting:
    """A prompt router that counts its calls."""

    router: MiloraRouter
    calls: list[int] = field(default_factory=list)  # layers, in order

    @property
    def num_layers(self) -> int:
        return self.router.num_layers

    @property
    def hidden_size(self) -> int:
        return self.router.hidden_size

    def to(self, device: torch.device) -> "Counting":
        return self

    def masks(self, layer: int, prompt_hidden: torch.Tensor) -> torch.Tensor:
        self.calls.append(layer)
        return self.router.masks(layer, prompt_hidden)


def random_gate(k: int, seed: int, temperature: float = 1.1) -> FlowGate:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(LAYERS, k, WIDTH, generator=generator) * 0.3
    return FlowGate(weight, torch.randn(LAYERS, k, generator=generator) * 0.4, temperature)


def random_router(seed: int, **options: object) -> MiloraRouter:
    generator = torch.Generator().manual_seed(seed)
    numerator, denominator = gelu_coefficients()
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.5
        for name, shape in tensor_shapes(LAYERS, WIDTH, "self_attention").items()
    }
    tensors |= {
        "numerator": numerator.repeat(LAYERS, 1),
        "denominator": denominator.repeat(LAYERS, 1),
    }
    return MiloraRouter(tensors, **{"top_k": 3, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def peft_models(
    tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[peft.PeftModel, Path]]:
    made: dict[str, tuple[peft.PeftModel, Path]] = {}

    def make(family: str) -> tuple[peft.PeftModel, Path]:
        if family not in made:
            base = transformers.AutoModelForCausalLM.from_pretrained(
                tiny_model(family), dtype=torch.float32
            )
            folder = tmp_path_factory.mktemp("adapters")
            made[family] = make_adapters(base, OPTIONS, folder), folder
        return made[family]

    return make


@pytest.fixture
def engine(
    running_engine: Callable[..., RunningEngine], peft_models: Callable[..., tuple]
) -> Callable[..., RunningEngine]:
    def make(family: str = "llama", **config: object) -> RunningEngine:
        running: RunningEngine = running_engine(family, **{"max_batch_size": 16, **config})
        shapes = BaseShapes("base", running.built.module_shapes)
        for name, slot in SLOTS.items():
            folder = peft_models(family)[1] / name
            running.load(slot, load_adapter(folder, shapes, AdapterConfig()).tensors)
        running.mixing.gates["two"] = random_gate(2, seed=1)
        running.mixing.gates["three"] = random_gate(3, seed=2)
        running.mixing.routers["m"] = Counting(random_router(seed=3))
        running.mixing.routers["prob"] = Counting(random_router(seed=4, top_k=5, weighting="prob"))
        return running

    return make


GATED = {
    "two": (("zh", "math"), Mixing(gate="two")),
    "two reversed": (("math", "zh"), Mixing(gate="two")),
    "two partial": (("partial", "zh"), Mixing(gate="two")),
    "three": (("math", "partial", "zh"), Mixing(gate="three")),
}
ROUTED = {
    "m": (("zh",), Mixing(router="m")),
    "m math": (("math",), Mixing(router="m")),
    "prob": (("zh",), Mixing(router="prob")),
}
CASES = GATED | ROUTED


def prompt_of(name: str, length: int = 0) -> list[int]:
    salt = sum(map(ord, name))
    return [(5 * i * i + salt) % VOCAB for i in range(length or 5 + salt % 17)]


def mixture_of(names: tuple[str, ...]) -> tuple[tuple[Slot, float], ...]:
    return tuple((SLOTS[name], 1.0) for name in names)


def submit(
    running: RunningEngine,
    name: str,
    case: str,
    prompt: list[int],
    sampling: SamplingParams = SAMPLING,
) -> None:
    names, mixing = CASES[case]
    running.submit(make_request(name, prompt, sampling), mixture_of(names), case, mixing=mixing)


def check(
    running: RunningEngine, model: peft.PeftModel, case: str, prompt: list[int], answer: Answer
) -> None:
    """Assert that the answer's log-probabilities are PEFT's."""
    names, mixing = CASES[case]
    if mixing.gate:
        gate = running.mixing.gates[mixing.gate]

        def weigh(layer: int, hidden: torch.Tensor) -> torch.Tensor:
            return gate.weights(layer, None, hidden)
    else:
        router = running.mixing.routers[mixing.router].router  # type: ignore[attr-defined] # MiLoRA's

        def weigh(layer: int, hidden: torch.Tensor) -> torch.Tensor:
            mask = router.masks(layer, hidden[0, : len(prompt)])
            return mask.expand(1, hidden.shape[1], 1, 7)

    oracle = WeightedPeft(model, names, weigh)
    logits = oracle.logits(prompt + answer.tokens)
    oracle.close()
    expected = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
    found = torch.empty_like(expected)
    for row, logprobs in enumerate(answer.logprobs):
        ids, values = zip(*logprobs.top, strict=True)
        found[row, list(ids)] = torch.tensor(values)
    assert_close("lora", found, expected)
    assert answer.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "modules"])
def test_a_mixed_batch_agrees_with_peft(engine, peft_models, family: str, fused: bool) -> None:
    running = engine(family, max_batch_tokens=64)
    runner = running.engine._runner
    assert (runner._fused is not None) or family not in FAMILIES
    if not fused:
        runner._fused = None
    for case in CASES:
        submit(running, case, case, prompt_of(case))
    statics = {"base": (), "single": mixture_of(("zh",)), "pair": ((0, 0.7), (1, -0.3))}
    for name, mixture in statics.items():
        running.submit(make_request(name, prompt_of(name), SAMPLING), mixture)
    running.wait(*CASES, *statics)
    model, _ = peft_models(family)
    for case in CASES:
        check(running, model, case, prompt_of(case), running.answers[case])
    alone = engine(family)
    for name, mixture in statics.items():
        one = alone.ask(make_request(name, prompt_of(name), SAMPLING), mixture)
        assert one.tokens == running.answers[name].tokens


def test_an_untrained_gate_is_the_target_alone(engine) -> None:
    running = engine()
    running.mixing.gates["fresh"] = FlowGate(
        torch.zeros(LAYERS, 2, WIDTH), initial_bias(2, 1).repeat(LAYERS, 1)
    )
    running.mixing.gates["average"] = FlowGate(
        torch.zeros(LAYERS, 2, WIDTH), torch.zeros(LAYERS, 2)
    )
    prompt = prompt_of("same")
    mixture = mixture_of(("zh", "math"))
    for gate, static in (
        ("fresh", mixture_of(("math",))),
        ("average", tuple((slot, 0.5) for slot, _ in mixture)),
    ):
        request = make_request(f"{gate} gated", prompt, SAMPLING)
        gated = running.ask(request, mixture, gate, mixing=Mixing(gate=gate))
        plain = running.ask(make_request(f"{gate} static", prompt, SAMPLING), static)
        assert gated.tokens == plain.tokens
        for one, other in zip(gated.logprobs, plain.logprobs, strict=True):
            assert dict(one.top) == pytest.approx(dict(other.top), abs=2e-4)


def test_all_modules_active_is_plain_lora(engine) -> None:
    running = engine()
    running.mixing.routers["all"] = random_router(seed=9, top_k=7)
    prompt, mixture = prompt_of("same"), mixture_of(("zh",))
    masked = running.ask(
        make_request("masked", prompt, SAMPLING), mixture, "m", mixing=Mixing(router="all")
    )
    plain = running.ask(make_request("plain", prompt, SAMPLING), mixture)
    assert masked.tokens == plain.tokens
    for one, other in zip(masked.logprobs, plain.logprobs, strict=True):
        assert dict(one.top) == pytest.approx(dict(other.top), abs=2e-4)
    assert set(masked.site_weights.weights[0]) == {1.0}


@pytest.mark.parametrize("max_batch_tokens", [16, 17, 64])
def test_a_gate_is_exact_in_chunks_and_from_the_cache(
    engine, peft_models, max_batch_tokens: int
) -> None:
    running = engine(max_batch_tokens=max_batch_tokens)
    prompt = prompt_of("two", length=41)
    for name in ("first", "again", "third"):
        submit(running, name, "two", prompt)
        running.wait(name)
        check(running, peft_models("llama")[0], "two", prompt, running.answers[name])
    assert running.answers["first"].usage.cached_tokens == 0
    assert running.answers["again"].usage.cached_tokens == 40


def test_a_router_is_asked_once_per_layer_of_a_new_prompt(engine, peft_models) -> None:
    running = engine(max_batch_tokens=16)
    router = running.mixing.routers["m"]
    prompt = prompt_of("m", length=41)  # longer than a step otherwise takes
    names, _ = CASES["m"]
    first = running.ask(
        make_request("first", prompt, SAMPLING), mixture_of(names), "m",
        mixing=Mixing(router="m", complete=lambda weights: f"m {weights}"),
    )  # fmt: skip
    assert router.calls == list(range(LAYERS))
    weights = first.site_weights
    assert isinstance(weights, SiteWeights)
    assert len(weights.sites) == LAYERS * 7
    assert sorted(weights.weights[0]) == [0.0] * 4 * LAYERS + [1.0] * 3 * LAYERS
    check(running, peft_models("llama")[0], "m", prompt, first)
    again = running.ask(
        make_request("again", prompt, SAMPLING), mixture_of(names), f"m {weights}",
        mixing=Mixing(router="m", site_weights=weights),
    )  # fmt: skip
    assert router.calls == list(range(LAYERS))
    assert again.tokens == first.tokens
    assert again.site_weights is None
    assert again.usage.cached_tokens == 40
    assert running.engine.stats().counters.routed_prompts == 1


def test_preemption_keeps_what_was_decided(engine, peft_models) -> None:
    running = engine(kv_blocks=20, max_batch_tokens=32, prefix_cache=False)
    long = dataclasses.replace(SAMPLING, max_tokens=20)
    prompts = {}
    for number in range(6):
        for case in ("m", "two"):
            name = f"{case} {number}"
            prompts[name] = prompt_of(name, length=9 + number)
            submit(running, name, case, prompts[name], long)
    running.wait(*prompts)
    assert running.engine.stats().preemptions > 0
    assert sorted(running.mixing.routers["m"].calls) == sorted([*range(LAYERS)] * 6)
    for name, prompt in prompts.items():
        check(running, peft_models("llama")[0], name[:-2], prompt, running.answers[name])


def test_a_resumed_answer_decides_by_its_prompt_alone(engine) -> None:
    running = engine(max_batch_tokens=16)
    prompt = prompt_of("m", length=21)
    names, mixing = CASES["m"]
    whole = running.ask(
        make_request("whole", prompt, SAMPLING), mixture_of(names), "a", mixing=mixing
    )
    resumed = running.ask(
        make_request("resumed", prompt, SAMPLING, resumed_token_ids=tuple(whole.tokens[:3])),
        mixture_of(names), "b", mixing=mixing,
    )  # fmt: skip
    assert resumed.tokens == whole.tokens[3:]
    assert resumed.site_weights == whole.site_weights


def test_an_explained_answer_tells_the_weights_behind_each_token(engine, peft_models) -> None:
    running = engine(max_batch_tokens=16)
    prompt = prompt_of("two", length=21)
    names, _ = CASES["two"]
    told: list[tuple] = []
    running.on_chunk = lambda chunk: told.append((chunk.token_ids, chunk.gate_weights))
    submit(running, "other", "two", prompt_of("other"))
    answer = running.ask(
        make_request("told", prompt, dataclasses.replace(SAMPLING, explain=True)),
        mixture_of(names),
        "two",
        mixing=Mixing(gate="two"),
    )
    running.wait("other")
    weights = [w for _, w in told if w]
    assert len(weights) == len(answer.tokens)
    gate = running.mixing.gates["two"]
    seen: list[torch.Tensor] = []

    def weigh(layer: int, hidden: torch.Tensor) -> torch.Tensor:
        w = gate.weights(layer, None, hidden)
        seen.append(w[0])
        return w

    oracle = WeightedPeft(peft_models("llama")[0], names, weigh)
    oracle.logits(prompt + answer.tokens[:-1])
    oracle.close()
    expected = torch.stack(seen, dim=1)[len(prompt) - 1 :]  # [tokens, layers, k]
    torch.testing.assert_close(torch.tensor(weights), expected, atol=1e-4, rtol=1e-3)


def test_a_gate_works_in_bf16(engine, peft_models) -> None:
    running = engine(dtype="bfloat16")
    running.mixing.gates["fresh"] = FlowGate(
        torch.zeros(LAYERS, 2, WIDTH), initial_bias(2, 0).repeat(LAYERS, 1)
    )
    running.mixing.routers["all"] = random_router(seed=9, top_k=7)
    prompt = prompt_of("same")
    mixture = mixture_of(("zh", "math"))
    gated = running.ask(make_request("g", prompt), mixture, "g", mixing=Mixing(gate="fresh"))
    masked = running.ask(make_request("m", prompt), mixture[:1], "m", mixing=Mixing(router="all"))
    plain = running.ask(make_request("p", prompt), mixture[:1])
    assert gated.tokens == plain.tokens == masked.tokens
