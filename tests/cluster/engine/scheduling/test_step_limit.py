"""Prompts next to answers: as many blocks as the promised time between tokens has room for."""

import math

from cluster.domain.work import StepTotals
from cluster.engine.scheduling.step_limit import StepLimit


def learnt(without_s: float, token_s: float, *, steps: int = 1) -> StepLimit:
    """Return a limit that has seen a step without prompts, and a longer one with 100 tokens."""
    limit = StepLimit(16)
    limit.observe(StepTotals(steps, decode_rows=steps, seconds=without_s * steps))
    with_prompt = without_s + 100 * token_s
    limit.observe(StepTotals(1, prefill_tokens=100, decode_rows=1, seconds=with_prompt))
    return limit


def test_there_is_no_limit_before_costs_are_known() -> None:
    limit = StepLimit(16)
    assert limit.prompt_tokens(0.15, 512) == 512
    limit.observe(StepTotals(1, decode_rows=1, seconds=0.2))
    assert limit.prompt_tokens(0.15, 512) == 512


def test_before_a_step_without_prompts_all_time_counts_as_theirs() -> None:
    limit = StepLimit(16)
    limit.observe(StepTotals(1, prefill_tokens=100, decode_rows=1, seconds=0.2))
    assert limit.prompt_tokens(0.15, 512) == 64


def test_a_step_takes_no_longer_than_promised() -> None:
    limit = learnt(0.05, 0.001)
    assert limit.prompt_tokens(0.15, 512) == 96
    assert limit.prompt_tokens(0.25, 512) in (192, 208)
    assert limit.prompt_tokens(0.15, 30) == 30
    assert limit.prompt_tokens(math.inf, 512) == 512


def test_a_step_may_take_twice_as_long_as_without_prompts() -> None:
    assert learnt(0.2, 0.002).prompt_tokens(0.15, 512) == 96


def test_prompts_of_one_tenant_may_take_longer_steps() -> None:
    assert learnt(0.05, 0.001).prompt_tokens(0.05, 512, alone=True) == 144


def test_prompts_always_advance() -> None:
    assert learnt(0.01, 1.0).prompt_tokens(0.0, 512) == 16
    assert learnt(0.01, 1.0).prompt_tokens(0.0, 5) == 5


def test_newer_steps_count_more() -> None:
    limit = learnt(0.05, 0.001)
    for _ in range(100):
        limit.observe(StepTotals(1, prefill_tokens=10, seconds=0.1))
    assert limit.prompt_tokens(0.15, 512) == 16
    limit.observe(StepTotals(100, decode_rows=100, seconds=1.0))
    assert limit.prompt_tokens(0.51, 512) == 48


def test_steps_that_are_alike_may_be_told_at_once() -> None:
    apart, at_once = learnt(0.05, 0.001), learnt(0.05, 0.001)
    for _ in range(7):
        apart.observe(StepTotals(1, decode_rows=2, seconds=0.08))
    at_once.observe(StepTotals(7, decode_rows=14, seconds=7 * 0.08))
    assert apart.prompt_tokens(0.5, 512) == at_once.prompt_tokens(0.5, 512)
