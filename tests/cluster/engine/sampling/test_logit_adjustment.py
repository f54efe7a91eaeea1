"""Bias, penalties and bans against token-by-token arithmetic and transformers' processors."""

import math
from collections import Counter

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from cluster.domain.request import SamplingParams
from cluster.engine.sampling.logit_adjustment import LogitAdjustment, adjust_logits
from cluster.engine.sampling.sampler import SamplingRow, check_sampling, sample
from cluster.errors import EngineError

VOCAB = 13


def adjusted(logits: torch.Tensor, *rows: LogitAdjustment) -> torch.Tensor:
    out = logits.clone()
    adjust_logits(out, rows)
    return out


def naive(values: list[float], row: LogitAdjustment) -> list[float]:
    counts = Counter(row.generated_ids)
    bias = dict(row.logit_bias)
    out = []
    for token, value in enumerate(values):
        value += bias.get(token, 0.0)
        if token in {*row.prompt_ids, *row.generated_ids}:
            penalty = row.repetition_penalty
            value = value * penalty if value < 0 else value / penalty
        value -= row.frequency_penalty * counts[token]
        value -= row.presence_penalty * (counts[token] > 0)
        out.append(-math.inf if token in row.banned_ids else value)
    return out


ids = st.integers(0, VOCAB + 2)  # the last ones are beyond the vocabulary
adjustments = st.builds(
    LogitAdjustment,
    logit_bias=st.dictionaries(ids, st.sampled_from([-100.0, -1.5, 2.0, 100.0]), max_size=4).map(
        lambda bias: tuple(bias.items())
    ),
    repetition_penalty=st.sampled_from([1.0, 0.7, 1.3, 2.0]),
    frequency_penalty=st.sampled_from([0.0, -0.5, 0.25, 2.0]),
    presence_penalty=st.sampled_from([0.0, -2.0, 0.75]),
    prompt_ids=st.lists(ids, max_size=6),
    generated_ids=st.lists(ids, max_size=12),
    banned_ids=st.frozensets(ids, max_size=3),
)


@given(rows=st.lists(adjustments, min_size=1, max_size=5), seed=st.integers(0, 2**31))
def test_every_row_is_as_computed_token_by_token(rows: list[LogitAdjustment], seed: int) -> None:
    logits = torch.randn(len(rows), VOCAB, generator=torch.Generator().manual_seed(seed)) * 4
    together = adjusted(logits, *rows)
    for i, row in enumerate(rows):
        assert together[i].tolist() == pytest.approx(naive(logits[i].tolist(), row), abs=1e-4)
        assert torch.equal(adjusted(logits[i : i + 1], row)[0], together[i])


def test_repetition_penalty_and_bias_agree_with_transformers() -> None:
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(4)) * 3
    prompt, generated = [1, 5, 5], [2, 7]
    seen = torch.tensor([[*prompt, *generated]])
    processors = transformers.LogitsProcessorList(
        [
            transformers.SequenceBiasLogitsProcessor({(3,): 2.5, (5,): -4.0}),
            transformers.RepetitionPenaltyLogitsProcessor(1.7),
        ]
    )
    row = LogitAdjustment(
        logit_bias=((3, 2.5), (5, -4.0)),
        repetition_penalty=1.7,
        prompt_ids=prompt,
        generated_ids=generated,
    )
    torch.testing.assert_close(adjusted(logits, row), processors(seen, logits.clone()))


@pytest.mark.slow
@given(
    min_p=st.sampled_from([0.01, 0.1, 0.5, 0.99, 1.0]),
    seed=st.integers(0, 2**31),
    top_k=st.sampled_from([0, 4]),
)
def test_min_p_agrees_with_transformers(min_p: float, seed: int, top_k: int) -> None:
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed)) * 2
    processors = transformers.LogitsProcessorList([])
    if top_k:
        processors.append(transformers.TopKLogitsWarper(top_k))
    processors.append(transformers.MinPLogitsWarper(min_p))
    kept = processors(torch.zeros(1, 0), logits.clone()).isfinite()[0].nonzero()[:, 0].tolist()
    draws = 400
    rows = [SamplingRow(1.0, 1.0, top_k, seed, i, min_p=min_p) for i in range(draws)]
    drawn = Counter(sample(logits.expand(draws, -1), rows).token_ids)
    assert set(drawn) <= set(kept)
    probs = logits.softmax(dim=-1)[0][kept]
    likely = [
        token for token, p in zip(kept, (probs / probs.sum()).tolist(), strict=True) if p > 0.1
    ]
    assert set(likely) <= set(drawn)


options = st.builds(
    SamplingRow,
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    top_p=st.sampled_from([0.5, 1.0]),
    top_k=st.sampled_from([0, 3]),
    seed=st.integers(0, 2**31),
    index=st.integers(0, 99),
    logprobs=st.sampled_from([None, 2]),
    min_p=st.sampled_from([0.0, 0.3]),
    adjustment=st.none() | adjustments,
)


@pytest.mark.slow
@given(rows=st.lists(options, min_size=1, max_size=6), seed=st.integers(0, 2**31))
def test_a_row_does_not_depend_on_its_batch(rows: list[SamplingRow], seed: int) -> None:
    logits = torch.randn(len(rows), VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    before = logits.clone()
    together = sample(logits, rows)
    assert torch.equal(logits, before)
    for i, row in enumerate(rows):
        alone = sample(logits[i : i + 1], [row])
        assert alone.token_ids[0] == together.token_ids[i]
        assert alone.logprobs[0] == together.logprobs[i]


@pytest.mark.slow
@given(rows=st.lists(options, min_size=1, max_size=6), seed=st.integers(0, 2**31))
def test_greedy_takes_the_best_adjusted_logit_and_reports_raw_logprobs(
    rows: list[SamplingRow], seed: int
) -> None:
    logits = torch.randn(len(rows), VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    sampled = sample(logits, rows)
    raw = logits.log_softmax(dim=-1)
    for i, row in enumerate(rows):
        expected = naive(logits[i].tolist(), row.adjustment or LogitAdjustment())
        assert expected[sampled.token_ids[i]] > -math.inf
        if row.temperature == 0:
            assert expected[sampled.token_ids[i]] == pytest.approx(max(expected), abs=1e-4)
        if sampled.logprobs[i] is not None:
            assert sampled.logprobs[i].logprob == pytest.approx(
                raw[i, sampled.token_ids[i]].item(), abs=1e-5
            )
            assert sampled.logprobs[i].top[0][0] == logits[i].argmax().item()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_no_token_is_left_to_is_named(temperature: float) -> None:
    everything = LogitAdjustment(banned_ids=frozenset(range(VOCAB)))
    rows = [
        SamplingRow(temperature, 1.0, 0, 1, 0, adjustment=everything),
        SamplingRow(temperature, 1.0, 0, 1, 0),
    ]
    assert sample(torch.zeros(2, VOCAB), rows).invalid_rows == {0}


def test_a_ban_does_not_hide_a_poisoned_row() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 3] = math.inf
    row = SamplingRow(0.0, 1.0, 0, 1, 0, adjustment=LogitAdjustment(banned_ids=frozenset({3})))
    assert sample(logits, [row]).invalid_rows == {0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_p": -0.1},
        {"min_p": math.nan},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": math.inf},
        {"presence_penalty": math.nan},
        {"frequency_penalty": math.inf},
        {"logit_bias": ((-1, 1.0),)},
        {"logit_bias": ((1, math.nan),)},
        {"min_tokens": -1},
    ],
)
def test_insane_parameters_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(EngineError, match=next(iter(wrong))):
        check_sampling(SamplingParams(max_tokens=1, **wrong))
