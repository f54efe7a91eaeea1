"""Log-probabilities of prompts against transformers' logits, however the prompt was computed."""

from collections.abc import Callable

import pytest
import torch
import transformers

from cluster.domain.ids import Slot
from cluster.domain.request import FinishReason, SamplingParams
from tests.support.engines import Answer, RunningEngine, make_request

VOCAB = 97
TOP = 4
FAMILIES = ("llama", "qwen3", "gemma")


def prompt(length: int, salt: int = 0) -> list[int]:
    return [(7 * i * i + 3 * i + salt) % VOCAB for i in range(length)]


def scoring(max_tokens: int = 0, top: int = TOP) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, prompt_logprobs=top)


@pytest.fixture
def expected(tiny_model: Callable) -> Callable[[str, list[int]], torch.Tensor]:
    """``expected(family, tokens)``: [tokens, vocabulary] log-probabilities of transformers."""

    def compute(family: str, tokens: list[int]) -> torch.Tensor:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            tiny_model(family), dtype=torch.float32
        )
        with torch.inference_mode():
            logits: torch.Tensor = model(torch.tensor([tokens])).logits[0]
        return logits.log_softmax(-1)

    return compute


def check(answer: Answer, tokens: list[int], log_probs: torch.Tensor, top: int = TOP) -> None:
    """Check every token but the first, once and in order."""
    assert answer.error_code is None
    assert len(answer.prompt_logprobs) == len(tokens) - 1
    for row, told in enumerate(answer.prompt_logprobs):
        assert told.logprob == pytest.approx(float(log_probs[row, tokens[row + 1]]), abs=1e-3)
        values, _ = log_probs[row].topk(top)
        assert [value for _, value in told.top] == pytest.approx(values.tolist(), abs=1e-3)
        for token, value in told.top:
            assert value == pytest.approx(float(log_probs[row, token]), abs=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_tokens", [0, 5])
def test_chunked_and_mixed_with_others(
    running_engine: Callable[..., RunningEngine],
    expected: Callable,
    family: str,
    max_tokens: int,
) -> None:
    engine = running_engine(family, max_batch_tokens=16)
    prompts = {f"p{length}": prompt(length, length) for length in (1, 2, 3, 15, 16, 17, 33, 60)}
    for name, tokens in prompts.items():
        engine.submit(make_request(name, tokens, scoring(max_tokens)))
        engine.submit(make_request(f"{name} plain", tokens))
    engine.wait(*prompts, *(f"{name} plain" for name in prompts))
    for name, tokens in prompts.items():
        answer = engine.answers[name]
        check(answer, tokens, expected(family, tokens))
        plain = engine.answers[f"{name} plain"]
        assert answer.tokens == plain.tokens[:max_tokens]
        assert answer.finish_reason is FinishReason.LENGTH
        assert answer.usage.completion_tokens == max_tokens
        assert plain.prompt_logprobs == []


def test_a_cached_prompt_is_scored_all_the_same(
    running_engine: Callable[..., RunningEngine], expected: Callable
) -> None:
    engine = running_engine()
    tokens = prompt(40)
    engine.ask(make_request("first", tokens))
    cached = engine.ask(make_request("cached", tokens))
    assert cached.usage.cached_tokens > 0
    scored = engine.ask(make_request("scored", tokens, scoring()))
    assert scored.usage.cached_tokens == 0
    check(scored, tokens, expected("llama", tokens))
    # And what it computed serves the next one.
    after = engine.ask(make_request("after", tokens))
    assert after.usage.cached_tokens == cached.usage.cached_tokens
    assert after.tokens == cached.tokens


def test_a_preempted_prompt_is_told_once(
    running_engine: Callable[..., RunningEngine], expected: Callable
) -> None:
    """20 blocks of 4: six prompts of 20 that grow by 24 tokens cannot all stay."""
    engine = running_engine(kv_blocks=20, max_batch_tokens=16, max_model_len=48)
    prompts = {f"p{salt}": prompt(20, salt) for salt in range(6)}
    for name, tokens in prompts.items():
        engine.submit(make_request(name, tokens, scoring(24)))
    engine.wait(*prompts)
    assert engine.engine.stats().preemptions > 0
    for name, tokens in prompts.items():
        check(engine.answers[name], tokens, expected("llama", tokens))
        assert len(engine.answers[name].tokens) == 24


def test_resumed_elsewhere_after_its_first_token_it_is_not_told_again(
    running_engine: Callable[..., RunningEngine],
) -> None:
    engine = running_engine()
    tokens = prompt(20)
    whole = engine.ask(make_request("whole", tokens, scoring(6)))
    resumed = engine.ask(
        make_request("resumed", tokens, scoring(6), resumed_token_ids=tuple(whole.tokens[:2]))
    )
    assert resumed.prompt_logprobs == []
    assert resumed.tokens == whole.tokens[2:]


def test_an_adapter_changes_what_a_prompt_is_worth(
    running_engine: Callable[..., RunningEngine],
) -> None:
    engine = running_engine()
    generator = torch.Generator().manual_seed(3)
    engine.load(
        0,
        {
            path: (
                torch.randn(4, d_in, generator=generator) * d_in**-0.5,
                torch.randn(d_out, 4, generator=generator),
                0.5,
            )
            for path, (d_out, d_in) in engine.built.module_shapes.items()
        },
    )
    tokens = prompt(20)
    base = engine.ask(make_request("base", tokens, scoring(top=0)))
    adapted = engine.ask(make_request("adapted", tokens, scoring(top=0)), ((Slot(0), 1.0),))
    assert len(adapted.prompt_logprobs) == 19
    apart = [
        abs(a.logprob - b.logprob)
        for a, b in zip(base.prompt_logprobs, adapted.prompt_logprobs, strict=True)
    ]
    assert max(apart) > 0.1
    assert base.prompt_logprobs[0].top == ()
