"""The sampler against closed forms and brute force."""

import math
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cluster.domain.request import SamplingParams
from cluster.engine.sampling import row_numbers, sampler
from cluster.engine.sampling.logit_adjustment import LogitAdjustment
from cluster.engine.sampling.sampler import SamplingRow, check_sampling, sample, uniform
from cluster.errors import EngineError


def row(**options) -> SamplingRow:
    defaults = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 1, "index": 0}
    return SamplingRow(**(defaults | options))


def logits_of(*probabilities: list[float]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def support(probabilities: list[float], draws: int = 300, **options) -> set[int]:
    logits = logits_of(probabilities).expand(draws, -1)
    return set(sample(logits, [row(index=i, **options) for i in range(draws)]).token_ids)


def test_greedy_takes_the_first_of_equal_maxima():
    logits = torch.tensor([[0.0, 3.0, 3.0], [5.0, 1.0, 2.0]])
    assert sample(logits, [row(temperature=0.0)] * 2).token_ids == (1, 0)


def test_draws_follow_the_distribution():
    wanted = [0.5, 0.2, 0.3]
    counts = Counter(
        sample(logits_of(wanted).expand(6000, -1), [row(index=i) for i in range(6000)]).token_ids
    )
    for token, probability in enumerate(wanted):
        # Five standard deviations of a binomial share.
        margin = 5 * math.sqrt(probability * (1 - probability) / 6000)
        assert abs(counts[token] / 6000 - probability) < margin


def test_temperature_sharpens():
    cold = support([0.6, 0.4], temperature=0.01)
    assert cold == {0}
    assert support([0.6, 0.4], temperature=1.0) == {0, 1}


def test_a_vanishing_temperature_does_not_overflow():
    logits = torch.tensor([[900.0, -900.0, 899.0]])
    assert sample(logits, [row(temperature=1e-30)]).token_ids == (0,)


@pytest.mark.parametrize("temperature", [1e-37, 1e-39, 1e-45, 1e-46, 5e-324])
@pytest.mark.parametrize("allowed", [None, np.array([True, True, False, False])])
def test_a_temperature_too_small_for_fp32_takes_the_likeliest(
    temperature: float, allowed: npt.NDArray[np.bool_] | None
):
    logits = torch.tensor([[1.0, 2.0, 3.0, -1.0], [2.0, 1.0, 0.5, 0.0]])
    adjustment = None if allowed is None else LogitAdjustment(allowed=allowed)
    cold = row(temperature=temperature, adjustment=adjustment)
    greedy = row(temperature=0.0, adjustment=adjustment)
    assert sample(logits, [cold, row()]).token_ids[0] == sample(logits, [greedy] * 2).token_ids[0]
    assert sample(logits, [cold] * 2) == sample(logits, [greedy] * 2)


@pytest.mark.parametrize("temperature", [3e38, 1e39, 1e300])
def test_a_temperature_too_large_for_fp32_spares_what_cannot_come(temperature: float):
    allowed = LogitAdjustment(allowed=np.array([True, False, True]))
    rows = [row(temperature=temperature, index=i, adjustment=allowed) for i in range(50)]
    drawn = sample(torch.tensor([[1.0, 9.0, 2.0]]).expand(50, -1).contiguous(), rows)
    assert set(drawn.token_ids) == {0, 2}
    assert not drawn.invalid_rows


@pytest.mark.parametrize("bound", [1e-39, 1e-46, 5e-324])
def test_bounds_too_small_for_fp32_act_as_the_least(bound: float):
    assert support([0.1, 0.4, 0.2, 0.3], top_p=bound) == {1}
    assert support([0.1, 0.4, 0.2, 0.3], min_p=bound) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("top_k", "kept"), [(1, {1}), (2, {1, 3}), (0, {0, 1, 2, 3}), (9, {0, 1, 2, 3})]
)
def test_top_k_keeps_the_likeliest(top_k: int, kept: set[int]):
    assert support([0.1, 0.4, 0.2, 0.3], top_k=top_k) == kept


def test_top_k_keeps_equals_of_the_kth():
    assert support([0.25, 0.25, 0.3, 0.2], top_k=2) == {0, 1, 2}


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.39, {1}), (0.41, {1, 3}), (0.71, {1, 2, 3}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_crossing_item(top_p: float, kept: set[int]):
    assert support([0.1, 0.4, 0.2, 0.3], top_p=top_p) == kept


def test_top_p_acts_on_what_top_k_left():
    # After top_k=2 the masses are 4/7 and 3/7: 0.57 is reached by the first alone.
    assert support([0.1, 0.4, 0.2, 0.3], top_k=2, top_p=0.57) == {1}


def test_top_p_of_a_flat_row_looks_past_the_first_candidates():
    flat = torch.zeros(400, 1000)
    tokens = sample(flat, [row(index=i, top_p=0.999) for i in range(400)]).token_ids
    assert len(set(tokens)) > 256


SAMPLED = {
    "temperature": {},
    "top-p": {"top_p": 0.95},
    "all": {"top_p": 0.9, "top_k": 40, "min_p": 0.02},
}


class Waits(TorchDispatchMode):
    """Counts the numbers that the host asks for one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Copies to a device that does not answer at once, as a GPU does not."""
    copies: list[torch.Tensor] = []

    def spy(values: torch.Tensor, device: torch.device) -> torch.Tensor:
        copies.append(values)
        return values

    monkeypatch.setattr(row_numbers, "send", spy)
    monkeypatch.setattr(sampler, "send", spy)
    monkeypatch.setattr(sampler, "answers_at_once", lambda _: False)
    return copies


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("others", [0, 2], ids=["alone", "with greedy rows"])
def test_a_step_that_draws_sends_once_and_waits_once(
    name: str, others: int, sent: list[torch.Tensor]
):
    logits = torch.randn(4 + others, 2000, generator=torch.Generator().manual_seed(4)) * 9
    rows = [row(index=i, **SAMPLED[name]) for i in range(4)] + [row(temperature=0.0)] * others
    with Waits() as waits:
        sample(logits, rows)
    assert len(sent) == 1
    assert waits.count == 0


def test_a_flat_row_is_drawn_again_and_is_what_it_is_where_the_device_answers(
    monkeypatch: pytest.MonkeyPatch, sent: list[torch.Tensor]
):
    logits = torch.randn(5, 3000, generator=torch.Generator().manual_seed(2))
    logits[1] *= 9
    rows = [row(index=i, top_p=0.97, seed=3) for i in range(3)] + [
        row(index=3),
        row(temperature=0.0),
    ]
    found = sample(logits, rows)
    assert len(sent) == 2
    monkeypatch.setattr(sampler, "answers_at_once", lambda _: True)
    assert sample(logits, rows) == found


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_row_does_not_depend_on_its_batch(data: st.DataObject):
    count = data.draw(st.integers(1, 6))
    options = st.builds(
        row,
        temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
        top_p=st.sampled_from([0.2, 0.9, 1.0]),
        top_k=st.sampled_from([0, 1, 3, 50]),
        seed=st.integers(-(2**63), 2**64),
        index=st.integers(0, 5000),
        logprobs=st.sampled_from([None, 0, 2]),
    )
    rows = [data.draw(options) for _ in range(count)]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    logits = torch.randn(count, 37, generator=generator) * 3
    together = sample(logits, rows)
    for i, one in enumerate(rows):
        alone = sample(logits[i : i + 1], [one])
        assert alone.token_ids[0] == together.token_ids[i]
        assert alone.logprobs[0] == together.logprobs[i]


def test_uniform_is_even_and_fixed():
    values = [uniform(7, i) for i in range(20000)]
    assert all(0 <= value < 1 for value in values)
    assert abs(sum(values) / len(values) - 0.5) < 0.01
    tenths = Counter(int(value * 10) for value in values)
    assert all(abs(tenths[tenth] - 2000) < 250 for tenth in range(10))
    assert len({uniform(seed, 0) for seed in range(5000)}) == 5000
    assert uniform(1, 2) != uniform(2, 1)
    # Part of the contract: a stored seed must give the same answer in a later release.
    assert uniform(42, 3) == 0.6769157388216522


def test_logprobs_are_of_the_raw_distribution():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 11, generator=generator)
    sampled = sample(logits, [row(temperature=0.2, top_k=1, logprobs=3), row(temperature=0.0)])
    expected = logits.log_softmax(dim=-1)
    first = sampled.logprobs[0]
    assert first is not None
    assert first.logprob == pytest.approx(expected[0, sampled.token_ids[0]].item(), abs=1e-6)
    assert [token for token, _ in first.top] == expected[0].topk(3).indices.tolist()
    assert [value for _, value in first.top] == pytest.approx(expected[0].topk(3).values.tolist())
    assert sampled.logprobs[1] is None


def test_logprobs_of_the_chosen_token_only():
    sampled = sample(logits_of([0.25, 0.75]), [row(temperature=0.0, logprobs=0)])
    assert sampled.logprobs[0] is not None
    assert sampled.logprobs[0].logprob == pytest.approx(math.log(0.75))
    assert sampled.logprobs[0].top == ()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_poisoned_row_is_named_and_spares_the_others(temperature: float, poison: float):
    logits = logits_of([0.1, 0.9], [0.1, 0.9], [0.9, 0.1])
    logits[1, 0] = poison
    sampled = sample(logits, [row(temperature=temperature, top_k=1)] * 3)
    assert sampled.invalid_rows == {1}
    assert (sampled.token_ids[0], sampled.token_ids[2]) == (1, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"logprobs": -1},
    ],
)
def test_insane_parameters_are_refused(wrong: dict[str, float]):
    with pytest.raises(EngineError, match=next(iter(wrong))):
        check_sampling(SamplingParams(max_tokens=1, **wrong))


def test_rows_and_logits_must_match():
    with pytest.raises(EngineError, match="2 rows of logits for 1"):
        sample(torch.zeros(2, 3), [row()])
