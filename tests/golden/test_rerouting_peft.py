"""Re-routed requests against PEFT's model with a weight for each adapter and token."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
import transformers

from cluster.adapters.loader import load_adapter
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AdapterConfig
from cluster.domain.ids import RequestId, Slot
from cluster.domain.request import FinishReason, SamplingParams
from cluster.engine.spans import Span
from cluster.errors import EngineError
from kernels.tolerances import assert_close
from tests.support.engines import Answer, RunningEngine, make_request
from tests.support.peft_oracle import ALL_MODULES, WeightedPeft, make_adapters

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

VOCAB = 97
OPTIONS = {
    "sql": {"r": 8, "lora_alpha": 16, "target_modules": list(ALL_MODULES)},
    "json": {"r": 3, "lora_alpha": 2, "target_modules": list(ALL_MODULES)},
    "cron": {"r": 4, "lora_alpha": 9, "target_modules": ["q_proj", "v_proj"]},
}
SLOTS = {name: Slot(slot) for slot, name in enumerate(OPTIONS)}
SAMPLING = SamplingParams(max_tokens=24, temperature=0.0, logprobs=VOCAB, ignore_eos=True)
PROMPT = [(5 * i * i + 3) % VOCAB for i in range(11)]
Weights = dict[str, float]
Change = tuple[int, Weights]  # (tokens of the completion before, weights from then on)
FIRST: Weights = {"sql": 1.0}
CHANGES: tuple[Change, ...] = ((6, {"json": 0.7, "cron": -0.4}), (13, {}), (18, {"sql": 0.5}))


@pytest.fixture(scope="module")
def peft_model(
    tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[peft.PeftModel, Path]:
    base = transformers.AutoModelForCausalLM.from_pretrained(
        tiny_model("llama"), dtype=torch.float32
    )
    folder = tmp_path_factory.mktemp("adapters")
    return make_adapters(base, OPTIONS, folder), folder


@pytest.fixture
def engine(
    running_engine: Callable[..., RunningEngine], peft_model: tuple[peft.PeftModel, Path]
) -> Callable[..., RunningEngine]:
    def make(**config: object) -> RunningEngine:
        running: RunningEngine = running_engine("llama", **{"max_batch_tokens": 16, **config})
        shapes = BaseShapes("base", running.built.module_shapes)
        for name, slot in SLOTS.items():
            running.load(slot, load_adapter(peft_model[1] / name, shapes, AdapterConfig()).tensors)
        return running

    return make


def mixture(weights: Weights) -> tuple[tuple[Slot, float], ...]:
    return tuple((SLOTS[name], weight) for name, weight in weights.items())


def change_while_it_runs(
    running: RunningEngine, plans: dict[str, tuple[Change, ...]]
) -> dict[str, list[int]]:
    """Ask for each change in the step thread, as soon as the one before has begun.

    Returns where spans begin, by request, as they are reported.
    """
    due = {name: list(plan) for name, plan in plans.items()}
    told: dict[str, list[int]] = {name: [] for name in plans}

    def ask(name: str) -> None:
        if due[name]:
            after, weights = due[name].pop(0)
            start = running.engine.reroute(
                RequestId(name), repr(weights), mixture(weights), after=after
            )
            assert start == after

    def follow(chunk) -> None:
        if chunk.request_id not in due:
            return
        if chunk.span_start is not None:
            told[chunk.request_id].append(chunk.span_start)
            ask(chunk.request_id)

    running.on_chunk = follow
    for name in plans:
        ask(name)
    return told


def submit(running: RunningEngine, name: str, prompt: list[int], first: Weights, **fields) -> None:
    running.submit(make_request(name, prompt, SAMPLING, **fields), mixture(first), repr(first))


def check(
    model: peft.PeftModel,
    prompt: list[int],
    first: Weights,
    changes: tuple[Change, ...],
    answer: Answer,
    resumed: int = 0,
) -> None:
    """Assert that log-probabilities are PEFT's, every position with its span's weights."""
    names = list(OPTIONS)
    table = torch.zeros(len(prompt) + len(answer.tokens), len(names))
    for start, weights in ((-len(prompt), first), *changes):
        row = torch.tensor([weights.get(name, 0.0) for name in names])
        table[len(prompt) + start :] = row
    oracle = WeightedPeft(model, names, lambda _, hidden: table[: hidden.shape[1]][None])
    logits = oracle.logits(prompt + answer.tokens)
    oracle.close()
    expected = logits.log_softmax(dim=-1)[len(prompt) - 1 + resumed : -1]
    found = torch.empty_like(expected)
    for row, logprobs in enumerate(answer.logprobs):
        ids, values = zip(*logprobs.top, strict=True)
        found[row, list(ids)] = torch.tensor(values)
    assert_close("lora", found, expected)
    assert answer.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "modules"])
def test_each_span_has_its_own_adapters_over_the_kv_that_is_there(
    engine, peft_model, fused: bool
) -> None:
    running = engine()
    if not fused:
        running.engine._runner._fused = None
    submit(running, "r", PROMPT, FIRST)
    told = change_while_it_runs(running, {"r": CHANGES})
    (answer,) = running.wait("r")
    assert told["r"] == [start for start, _ in CHANGES]
    check(peft_model[0], PROMPT, FIRST, CHANGES, answer)
    assert running.engine.stats().counters.rerouted == 3
    assert running.engine.stats().counters.prompt_tokens == len(PROMPT)  # nothing was recomputed
    assert running.engine.stats().counters.step_tokens == len(PROMPT) + SAMPLING.max_tokens - 1
    # It could have come out otherwise: the same tokens under the first weights alone.
    with pytest.raises(AssertionError):
        check(peft_model[0], PROMPT, FIRST, (), answer)


def test_batch_mates_are_not_touched(engine) -> None:
    mates: dict[str, Weights] = {"base": {}, "sql": {"sql": 1.0}, "pair": {"json": 1.0, "sql": 0.3}}
    alone = {}
    for name, weights in mates.items():
        one = engine()
        submit(one, name, PROMPT[: 4 + len(name)], weights)
        alone[name] = one.wait(name)[0]
    running = engine()
    for name, weights in mates.items():
        submit(running, name, PROMPT[: 4 + len(name)], weights)
    submit(running, "r", PROMPT, FIRST)
    change_while_it_runs(running, {"r": CHANGES})
    running.wait("r", *mates)
    for name in mates:
        assert running.answers[name].tokens == alone[name].tokens
        assert running.answers[name].logprobs == alone[name].logprobs


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_preemption_replays_each_span(engine, peft_model, prefix_cache: bool) -> None:
    prompts = {f"r{n}": [(t + 7 * n) % VOCAB for t in PROMPT] for n in range(4)}
    expected = {}
    for name, prompt in prompts.items():
        roomy = engine()
        submit(roomy, name, prompt, FIRST)
        change_while_it_runs(roomy, {name: CHANGES})
        expected[name] = roomy.wait(name)[0]
    running = engine(kv_blocks=22, prefix_cache=prefix_cache)
    for name, prompt in prompts.items():
        submit(running, name, prompt, FIRST)
    told = change_while_it_runs(running, dict.fromkeys(prompts, CHANGES))
    running.wait(*prompts)
    assert running.engine.stats().preemptions > 0
    for name, prompt in prompts.items():
        assert told[name] == [start for start, _ in CHANGES]
        assert running.answers[name].tokens == expected[name].tokens
        check(peft_model[0], prompt, FIRST, CHANGES, running.answers[name])


@pytest.mark.parametrize("seen", [7, 13, 15, 20])
def test_elsewhere_it_goes_on_with_the_spans_it_had(engine, peft_model, seen: int) -> None:
    first = engine()
    submit(first, "r", PROMPT, FIRST)
    change_while_it_runs(first, {"r": CHANGES})
    (whole,) = first.wait("r")
    begun = [change for change in CHANGES if change[0] < seen]
    second = engine()
    second.submit(
        make_request("r", PROMPT, SAMPLING, resumed_token_ids=tuple(whole.tokens[:seen])),
        mixture(FIRST),
        repr(FIRST),
        spans=tuple(
            Span(len(PROMPT) + start, repr(weights), mixture(weights)) for start, weights in begun
        ),
    )
    change_while_it_runs(second, {"r": CHANGES[len(begun) :]})
    (rest,) = second.wait("r")
    assert rest.tokens == whole.tokens[seen:]
    resumed = replace(rest, tokens=whole.tokens)
    check(peft_model[0], PROMPT, FIRST, CHANGES, resumed, resumed=seen)


def test_a_prefix_is_found_only_where_everything_before_was_the_same(engine, peft_model) -> None:
    running = engine()
    submit(running, "r", PROMPT, FIRST)
    change_while_it_runs(running, {"r": CHANGES[:1]})
    (answer,) = running.wait("r")
    running.on_chunk = None
    everything = PROMPT + answer.tokens
    shared = (len(PROMPT) + CHANGES[0][0]) // 4 * 4  # whole blocks before the change
    for name, weights in (("as before", FIRST), ("as after", CHANGES[0][1]), ("other", {})):
        submit(running, name, everything, weights)
        (again,) = running.wait(name)
        assert again.usage.cached_tokens == (shared if weights is FIRST else 0)
        check(peft_model[0], everything, weights, (), again)
    # The same history finds all of it, the block with the change included.
    request = make_request("same", PROMPT, SAMPLING, resumed_token_ids=tuple(answer.tokens[:22]))
    start, weights = CHANGES[0]
    span = Span(len(PROMPT) + start, repr(weights), mixture(weights))
    before = running.engine.stats().counters.step_tokens
    running.submit(request, mixture(FIRST), repr(FIRST), spans=(span,))
    (same,) = running.wait("same")
    assert same.tokens == answer.tokens[22:]
    computed = running.engine.stats().counters.step_tokens - before
    assert computed == len(PROMPT) + 22 - 32 + 1  # 32 of 33 were found, then one more token


def test_what_cannot_be_re_routed_is_refused(engine) -> None:
    running = engine()
    assert running.engine.reroute(RequestId("unknown"), "n", (), after=0) is None
    submit(running, "r", PROMPT, FIRST)
    with pytest.raises(EngineError, match="slot"):
        running.engine.reroute(RequestId("r"), "n", ((Slot(7), 1.0),), after=0)
    with pytest.raises(EngineError, match="finite"):
        running.engine.reroute(RequestId("r"), "n", ((Slot(0), float("nan")),), after=0)
    assert running.engine.reroute(RequestId("r"), "n", (), after=5) == 5
    with pytest.raises(EngineError, match="already"):
        running.engine.reroute(RequestId("r"), "n", (), after=9)
    assert running.engine.release_before(RequestId("r"), 5) is False  # no one would take it back
    running.wait("r")
    span = Span(0, "n", ())
    with pytest.raises(EngineError, match="spans begin"):
        running.submit(make_request("p", PROMPT, SAMPLING), spans=(span,))
    del running.answers["p"]
