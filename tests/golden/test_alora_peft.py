"""Activated LoRA against PEFT's own: which tokens it applies to, and what is shared before."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.adapters.loader import load_adapter
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AdapterConfig
from cluster.domain.ids import Slot
from cluster.domain.request import SamplingParams
from kernels.tolerances import assert_close
from tests.support.activation import cut, submit
from tests.support.engines import Answer, RunningEngine
from tests.support.peft_oracle import ALL_MODULES, make_adapters

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
    "ignore:Model has `tie_word_embeddings=True`",
)

VOCAB, BLOCK, TOKENS = 97, 4, 6
CALL, OTHER_CALL = [90, 91, 90], [80]
OPTIONS: dict[str, dict[str, Any]] = {
    "xa": {
        "r": 6,
        "lora_alpha": 9,
        "target_modules": list(ALL_MODULES),
        "alora_invocation_tokens": CALL,
        "task_type": "CAUSAL_LM",
    },
    "xb": {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": ["q_proj", "v_proj", "lm_head"],
        "alora_invocation_tokens": OTHER_CALL,
        "task_type": "CAUSAL_LM",
    },
    "xc": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": list(ALL_MODULES),
        "task_type": "CAUSAL_LM",
    },
}
SLOTS = {name: Slot(slot) for slot, name in enumerate(OPTIONS)}
INVOCATIONS = {SLOTS["xa"]: CALL, SLOTS["xb"]: OTHER_CALL}
GREEDY = SamplingParams(max_tokens=TOKENS, temperature=0.0, logprobs=VOCAB, ignore_eos=True)


def words(count: int, salt: int = 0) -> list[int]:
    """Return tokens that invoke nothing."""
    return [(7 * i * i + 3 * i + salt) % 79 for i in range(count)]


PROMPTS = {
    "in the middle": [*words(13), *CALL, *words(7, 5)],
    "at the start": [*CALL, *words(11)],
    "absent": words(18),
    "half of it": [*words(9), *CALL[:2], *words(4)],
    "twice": [*words(6), *CALL, *words(5, 2), *CALL, *words(4, 9)],
    "overlapping": [*words(6), 90, 91, 90, 91, 90, *words(3)],
    "at the end": [*words(10), *CALL],
    "alone": list(CALL),
    "at a block's start": [*words(2 * BLOCK), *CALL, *words(5)],
    "of one token": [*words(7), *CALL, *OTHER_CALL, *words(2)],
}


@pytest.fixture(scope="module")
def made(
    tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[peft.PeftModel, Path]:
    base = transformers.AutoModelForCausalLM.from_pretrained(
        tiny_model("llama"), dtype=torch.float32
    )
    folder = tmp_path_factory.mktemp("adapters")
    return make_adapters(base, OPTIONS, folder), folder


@pytest.fixture
def engine(
    running_engine: Callable[..., RunningEngine], made: tuple[peft.PeftModel, Path]
) -> Callable[..., RunningEngine]:
    def make(**config: object) -> RunningEngine:
        running = running_engine("llama", **{"max_batch_tokens": 16, **config})
        load(running, made[1])
        return running

    return make


def load(running: RunningEngine, folder: Path) -> None:
    shapes = BaseShapes("base", running.built.module_shapes, vocab_size=VOCAB)
    for name, slot in SLOTS.items():
        loaded = load_adapter(folder / name, shapes, AdapterConfig())
        assert loaded.manifest.invocation_tokens == tuple(INVOCATIONS.get(slot, ()))
        running.load(slot, loaded.tensors)


def ask(running: RunningEngine, name: str, prompt: list[int], *adapters: str, **fields) -> None:
    fields = {"sampling": GREEDY, **fields}
    mixture = tuple((SLOTS[adapter], 1.0) for adapter in adapters)
    submit(running, name, prompt, mixture, INVOCATIONS, **fields)


def generated(
    model: peft.PeftModel, adapter: str, prompt: list[int], count: int = TOKENS
) -> tuple[list[int], Any]:
    """Return PEFT's greedy ``generate`` tokens and log-probabilities [tokens, vocabulary]."""
    ids = torch.tensor([prompt])
    options = {
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": count,
        "min_new_tokens": count,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
        "pad_token_id": 0,
    }
    with torch.inference_mode():
        if adapter:
            model.set_adapter(adapter)
            found = model.generate(input_ids=ids, **options)
        else:
            with model.disable_adapter():
                found = model.generate(input_ids=ids, **options)
    return found.sequences[0, len(prompt) :].tolist(), torch.cat(found.logits).log_softmax(-1)


def check(answer: Answer, expected: tuple[list[int], Any]) -> None:
    tokens, log_probs = expected
    found = torch.empty_like(log_probs)
    for row, logprobs in enumerate(answer.logprobs):
        ids, values = zip(*logprobs.top, strict=True)
        found[row, list(ids)] = torch.tensor(values)
    assert answer.tokens == tokens
    assert_close("lora", found, log_probs)


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "modules"])
def test_tokens_are_pefts_beside_other_rows(engine, made, fused: bool, prefix_cache: bool) -> None:
    """Chunked prefills of activated, ordinary and no adapters, in one batch."""
    running = engine(prefix_cache=prefix_cache)
    if not fused:
        running.engine._runner._fused = None
    for name, prompt in PROMPTS.items():
        for adapter in ("xa", "xb", "xc", ""):
            ask(running, f"{name}/{adapter}", prompt, *filter(None, [adapter]))
    running.wait(*running.answers)
    for name, prompt in PROMPTS.items():
        for adapter in ("xa", "xb", "xc", ""):
            check(running.answers[f"{name}/{adapter}"], generated(made[0], adapter, prompt))


def test_what_applies_matters(made) -> None:
    """An invocation changes the answer, and a prompt without one is the base's."""
    model = made[0]
    for name in ("in the middle", "twice", "at the end"):
        assert not torch.allclose(
            generated(model, "xa", PROMPTS[name])[1],
            generated(model, "", PROMPTS[name])[1],
            atol=0.1,
        )
    absent, base = (generated(model, adapter, PROMPTS["absent"]) for adapter in ("xa", ""))
    assert torch.equal(absent[1], base[1])


@pytest.mark.parametrize("adapter", ["xa", "xb"])
def test_prompts_are_scored_as_peft_does(engine, made, adapter: str) -> None:
    running = engine()
    sampling = SamplingParams(max_tokens=0, temperature=0.0, prompt_logprobs=VOCAB)
    for name, prompt in PROMPTS.items():
        ask(running, name, prompt, adapter, sampling=sampling)
    running.wait(*PROMPTS)
    made[0].set_adapter(adapter)
    for name, prompt in PROMPTS.items():
        with torch.inference_mode():
            expected = made[0](input_ids=torch.tensor([prompt])).logits[0].log_softmax(-1)[:-1]
        found = torch.empty_like(expected)
        for row, logprobs in enumerate(running.answers[name].prompt_logprobs):
            ids, values = zip(*logprobs.top, strict=True)
            found[row, list(ids)] = torch.tensor(values)
        assert_close("lora", found, expected)


def test_blocks_before_the_invocation_are_the_bases(engine, made) -> None:
    """Goes from the base to two activated LoRAs, and back.

    The block in which an adapter begins is found by its own requests alone.
    """
    running = engine()
    shared = words(18)
    tails = {"xa": [*CALL, 5, 6], "xb": [*OTHER_CALL, 5, 6], "": [5, 6, 7], "xc": [5, 6, 7]}
    whole = 18 // BLOCK * BLOCK

    def turn(name: str, adapter: str, tail: list[int]) -> int:
        ask(running, name, [*shared, *tail], *filter(None, [adapter]))
        (answer,) = running.wait(name)
        check(answer, generated(made[0], adapter, [*shared, *tail]))
        return answer.usage.cached_tokens

    assert turn("activated first", "xa", tails["xa"]) == 0
    assert turn("base", "", tails[""]) == whole
    assert turn("ordinary", "xc", tails["xc"]) == 0
    assert turn("other", "xb", tails["xb"]) == whole
    assert turn("again", "xa", tails["xa"]) == (18 + 5 - 1) // BLOCK * BLOCK
    assert turn("same tokens", "", tails["xa"]) == whole
    assert turn("whole prompt", "xc", tails["xa"]) == 0 + whole  # of "ordinary"
    assert running.engine.stats().counters.prefix_hit_tokens == 4 * whole + 20


def test_an_earlier_turns_invocation_is_computed_by_the_base(engine, made) -> None:
    """A second turn invokes again: what the first one adapted is the base's now."""
    running = engine()
    first = [*words(9), *CALL, *words(3, 4)]
    ask(running, "first", first, "xa")
    (answer,) = running.wait("first")
    second = [*first, *answer.tokens, *words(5, 8), *CALL]
    ask(running, "second", second, "xa")
    (again,) = running.wait("second")
    check(again, generated(made[0], "xa", second))
    assert again.usage.cached_tokens == 9 // BLOCK * BLOCK


def mixed_log_probs(
    folder: Path, base: Path, weights: dict[str, float], starts: dict[str, int], tokens: list[int]
) -> torch.Tensor:
    """Compute [tokens, vocabulary], each adapter's product added to tokens from its start on."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    shapes = {
        path: tuple(module.weight.shape)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    for name, weight in weights.items():
        tensors = load_adapter(folder / name, BaseShapes("b", shapes), AdapterConfig()).tensors
        applies = (torch.arange(len(tokens)) >= starts[name]).float()[:, None] * weight
        for path, (a, b, scaling) in tensors.items():

            def add(_, inputs, y, a=a, b=b, scaling=scaling, applies=applies):
                return y + applies * scaling * (inputs[0] @ a.T @ b.T)

            model.get_submodule(path).register_forward_hook(add)
    with torch.inference_mode():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(-1)


def test_a_mixture_activates_each_by_itself(engine, made, tiny_model) -> None:
    weights = {"xa": 0.8, "xc": -0.5, "xb": 1.0}
    prompt = [*words(9), *OTHER_CALL, *words(4, 3), *CALL, *words(6, 7)]
    running = engine()
    mixture = tuple((SLOTS[name], weight) for name, weight in weights.items())
    assert [part.start for part in cut(prompt, mixture, INVOCATIONS)] == [0, 9, 14]
    for name in ("r", "again"):
        submit(running, name, prompt, mixture, INVOCATIONS, sampling=GREEDY)
        (answer,) = running.wait(name)
        starts = {"xa": 14, "xc": 0, "xb": 9}
        whole = [*prompt, *answer.tokens]
        expected = mixed_log_probs(made[1], tiny_model("llama"), weights, starts, whole)
        check(answer, (answer.tokens, expected[len(prompt) - 1 : -1]))
    assert answer.usage.cached_tokens == (len(prompt) - 1) // BLOCK * BLOCK
    # Before the second invocation it is what the first two alone are.
    pair = tuple((SLOTS[name], weights[name]) for name in ("xc", "xb"))
    submit(running, "pair", prompt[:16], pair, INVOCATIONS, sampling=GREEDY)
    (answer,) = running.wait("pair")
    assert answer.usage.cached_tokens == 14 // BLOCK * BLOCK


def test_a_preempted_request_is_cut_at_the_same_tokens(engine, made) -> None:
    """Their tokens are computed again, prompt and completion together."""
    running = engine(kv_blocks=20, max_batch_size=6, prefix_cache=False)
    sampling = SamplingParams(max_tokens=30, temperature=0.0, logprobs=VOCAB, ignore_eos=True)
    long = {f"r{i}": [*words(5 + i, i), *CALL, *words(8, 2 * i)] for i in range(4)}
    for name, prompt in long.items():
        ask(running, name, prompt, "xa", sampling=sampling)
    running.wait(*long)
    assert running.engine.stats().preemptions
    for name, prompt in long.items():
        check(running.answers[name], generated(made[0], "xa", prompt, count=30))


def test_another_replica_goes_on(engine, made) -> None:
    """Generated tokens invoke nothing, wherever they were generated."""
    prompt = PROMPTS["in the middle"]
    tokens, log_probs = generated(made[0], "xa", prompt)
    running = engine()
    ask(running, "r", prompt, "xa", resumed_token_ids=tuple(tokens[:3]))
    (answer,) = running.wait("r")
    check(answer, (tokens[3:], log_probs[3:]))
    forced = tuple(CALL)
    ask(running, "forced", words(9), "xa", resumed_token_ids=forced)
    ask(running, "base", words(9), resumed_token_ids=forced)
    forced_answer, base = running.wait("forced", "base")
    assert forced_answer.tokens == base.tokens


@pytest.fixture(scope="module")
def cached(
    tiny_model: Callable[..., Path], made: tuple[peft.PeftModel, Path]
) -> Iterator[RunningEngine]:
    running = RunningEngine(
        tiny_model("llama"), max_batch_tokens=16, kv_blocks=64, max_batch_size=4
    )
    load(running, made[1])
    yield running
    running.stop()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    base=st.integers(1, 17),
    salt=st.integers(0, 1),
    parts=st.lists(st.sampled_from((CALL, OTHER_CALL, [1, 2, 3, 4, 5], [7])), max_size=4),
    adapters=st.sampled_from((("xa",), ("xb",), (), ("xc",))),
)
def test_any_point_of_invocation(cached, made, base, salt, parts, adapters) -> None:
    """Over a cache that fills and is evicted from: every prompt's tokens are PEFT's."""
    prompt = [*words(base, salt), *(token for part in parts for token in part)]
    name = f"r{len(cached.answers)}"
    ask(cached, name, prompt, *adapters)
    (answer,) = cached.wait(name)
    check(answer, generated(made[0], adapters[0] if adapters else "", prompt))
