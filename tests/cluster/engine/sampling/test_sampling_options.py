"""Penalties, bias, min_p and min_tokens through a whole engine."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from cluster.domain.request import FinishReason, SamplingParams
from tests.support.engines import RunningEngine, make_request

PROMPT = [3, 17, 42, 17, 8]
COUNT = 24

OPTIONS: dict[str, dict] = {
    "plain": {},
    "repetition": {"repetition_penalty": 1.4},
    "frequency": {"frequency_penalty": 0.8},
    "presence": {"presence_penalty": 1.5},
    "bias": {"logit_bias": ((5, 4.0), (9, -100.0))},
    "all": {
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.3,
        "logit_bias": ((5, 2.0),),
    },
}


def greedy(**options) -> SamplingParams:
    return SamplingParams(**({"max_tokens": COUNT, "temperature": 0.0} | options))


class GeneratedPenalties(transformers.LogitsProcessor):
    """OpenAI's two penalties, written out for one sequence."""

    def __init__(self, prompt_len: int, frequency: float, presence: float) -> None:
        self.prompt_len, self.frequency, self.presence = prompt_len, frequency, presence

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        counts = torch.zeros_like(scores)
        for token in input_ids[0, self.prompt_len :].tolist():
            counts[0, token] += 1
        return scores - self.frequency * counts - self.presence * (counts > 0)


def reference(folder: Path, options: dict) -> list[int]:
    """Return the greedy tokens of transformers' ``generate`` with its own processors."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    processors = transformers.LogitsProcessorList([])
    if options.get("logit_bias"):
        bias = {(token,): value for token, value in options["logit_bias"]}
        processors.append(transformers.SequenceBiasLogitsProcessor(bias))
    if options.get("repetition_penalty"):
        penalty = options["repetition_penalty"]
        processors.append(transformers.RepetitionPenaltyLogitsProcessor(penalty))
    processors.append(
        GeneratedPenalties(
            len(PROMPT), options.get("frequency_penalty", 0.0), options.get("presence_penalty", 0.0)
        )
    )
    ids = torch.tensor([PROMPT])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=COUNT,
        do_sample=False,
        logits_processor=processors,
    )
    return out[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("name", OPTIONS)
def test_greedy_tokens_are_those_of_transformers(
    running_engine: Callable[..., RunningEngine], tiny_model: Callable[..., Path], name: str
) -> None:
    engine = running_engine()
    answer = engine.ask(make_request("r", PROMPT, greedy(**OPTIONS[name])))
    assert answer.tokens == reference(tiny_model("llama"), OPTIONS[name])


def test_options_change_the_tokens(running_engine: Callable[..., RunningEngine]) -> None:
    engine = running_engine()
    answers = {
        name: tuple(engine.ask(make_request(name, PROMPT, greedy(**options))).tokens)
        for name, options in OPTIONS.items()
    }
    assert len(set(answers.values())) == len(OPTIONS)
    assert 9 not in answers["bias"]


MIXED = {
    **{name: {"temperature": 0.0, **options} for name, options in OPTIONS.items()},
    "seeded": {"temperature": 1.0, "seed": 4, "min_p": 0.1, "presence_penalty": 0.7},
    "seeded too": {"temperature": 1.3, "seed": 5, "min_p": 0.3, "repetition_penalty": 1.3},
}


def test_batched_equals_alone_and_resumed_equals_whole(
    running_engine: Callable[..., RunningEngine],
) -> None:
    engine = running_engine()
    wishes = {name: SamplingParams(max_tokens=COUNT, **wish) for name, wish in MIXED.items()}
    alone = {
        name: engine.ask(make_request(f"{name} alone", PROMPT, wish)).tokens
        for name, wish in wishes.items()
    }
    for name, wish in wishes.items():
        engine.submit(make_request(name, PROMPT, wish))
    for name, answer in zip(wishes, engine.wait(*wishes), strict=True):
        assert answer.tokens == alone[name], name
    for name, wish in wishes.items():
        had = tuple(alone[name][:9])
        answer = engine.ask(make_request(f"{name} on", PROMPT, wish, resumed_token_ids=had))
        assert answer.tokens == alone[name][9:], name


def test_preempted_sequences_count_their_earlier_tokens(
    running_engine: Callable[..., RunningEngine],
) -> None:
    roomy, tight = running_engine(), running_engine(kv_blocks=16, max_model_len=48)
    wish = greedy(max_tokens=30, **OPTIONS["all"])
    names = [f"r{i}" for i in range(4)]
    answers = []
    for engine in (roomy, tight):
        for i, name in enumerate(names):
            engine.submit(make_request(name, [*PROMPT, i], wish))
        answers.append([answer.tokens for answer in engine.wait(*names)])
    assert tight.engine.stats().preemptions > 0
    assert answers[0] == answers[1]


def test_no_stop_token_before_min_tokens(running_engine: Callable[..., RunningEngine]) -> None:
    engine = running_engine()
    free = engine.ask(make_request("free", PROMPT, greedy())).tokens
    stop = free[2]
    stopped = engine.ask(make_request("stopped", PROMPT, greedy(stop_token_ids=(stop,))))
    assert stopped.finish_reason is FinishReason.STOP
    assert len(stopped.tokens) <= 3
    # Wanted at every position, so it comes as soon as it may.
    wish = {"stop_token_ids": (stop,), "logit_bias": ((stop, 100.0),)}
    for least in (0, 1, 5, 9):
        answer = engine.ask(make_request(f"at {least}", PROMPT, greedy(min_tokens=least, **wish)))
        assert answer.finish_reason is FinishReason.STOP
        assert answer.tokens.index(stop) == len(answer.tokens) - 1 == least
    resumed = make_request(
        "resumed", PROMPT, greedy(min_tokens=5, **wish), resumed_token_ids=(7, 7, 7)
    )
    assert len(engine.ask(resumed).tokens) == 3  # two more, then the stop token


def test_logprobs_stay_the_models_own(running_engine: Callable[..., RunningEngine]) -> None:
    engine = running_engine()
    plain = engine.ask(make_request("plain", PROMPT, greedy(max_tokens=1, logprobs=97)))
    biased = engine.ask(
        make_request("biased", PROMPT, greedy(max_tokens=1, logprobs=97, logit_bias=((9, 100.0),)))
    )
    assert biased.tokens == [9]
    raw = dict(plain.logprobs[0].top)
    assert dict(biased.logprobs[0].top) == pytest.approx(raw, abs=1e-4)
    assert biased.logprobs[0].logprob == pytest.approx(raw[9], abs=1e-4)
