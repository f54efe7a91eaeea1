"""Tenants share the prompt tokens of a step by weight."""

from collections import Counter
from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cluster.domain.ids import TenantId
from cluster.domain.work import StepTotals
from cluster.engine.scheduling.prompt_shares import kept_for_waiting, split_prompts

A, B, C = (TenantId(name) for name in "abc")
ASKED = st.lists(st.tuples(st.sampled_from([A, B, C]), st.integers(0, 60)), max_size=8)
WEIGHTS = st.fixed_dictionaries({name: st.floats(0.001, 1000.0) for name in (A, B, C)})


@given(ASKED, WEIGHTS, st.integers(0, 200))
def test_nothing_is_left_that_someone_asks_for(
    asked: list[tuple[TenantId, int]], weights: Mapping[TenantId, float], budget: int
) -> None:
    for shared in (weights, {}):
        counts = split_prompts(asked, shared, budget)
        wanted = [tokens for _, tokens in asked]
        assert all(0 <= count <= want for count, want in zip(counts, wanted, strict=True))
        assert sum(counts) == min(budget, sum(wanted))


@given(ASKED, WEIGHTS, st.integers(0, 200))
def test_a_tenant_gets_its_share_or_all_that_it_asks_for(
    asked: list[tuple[TenantId, int]], weights: Mapping[TenantId, float], budget: int
) -> None:
    total = sum(weights[tenant] for tenant in {tenant for tenant, _ in asked})
    given_to: Counter[TenantId] = Counter()
    wanted: Counter[TenantId] = Counter()
    for (tenant, tokens), count in zip(asked, split_prompts(asked, weights, budget), strict=True):
        given_to[tenant] += count
        wanted[tenant] += tokens
    for tenant, tokens in wanted.items():
        share = int(budget * weights[tenant] / total)
        assert given_to[tenant] >= min(tokens, share - len(weights)), "but for what is rounded up"


def test_without_weights_the_oldest_come_first() -> None:
    assert split_prompts([(A, 30), (B, 30)], {}, 40) == [30, 10]


def test_those_that_wait_have_their_part_kept() -> None:
    weights = {A: 1.0, B: 3.0, C: 1.0}
    assert kept_for_waiting(weights, {A}, 100) == 80
    assert kept_for_waiting(weights, {A, B, C}, 100) == 0
    assert kept_for_waiting({}, {A}, 100) == 0
    assert kept_for_waiting({A: 1000.0, B: 0.001}, {A}, 100) == ceil(1e-4)


def test_a_short_prompt_does_not_wait_for_another_tenants_long_ones(
    make_rig: Callable[..., Any],
) -> None:
    rig = make_rig(max_model_len=400, kv_blocks=400)
    for index in range(3):
        rig.add(f"l{index}", 200, tenant="long")
    rig.step()
    rig.add("s", 8, tenant="short")
    assert rig.step()["s"] == (0, 8, True), "half of a step's 16 tokens"


def test_long_prompts_of_one_tenant_share_nothing(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(max_model_len=400, kv_blocks=400)
    rig.add("l", 200)
    rig.step()
    rig.add("s", 8)
    assert rig.step() == {"l": (16, 16, False)}


def test_answers_bound_the_prompts_next_to_them(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(max_model_len=400, kv_blocks=400, max_batch_tokens=64)
    rig.add("a", 4, itl_s=0.1, max_tokens=30)
    rig.step()
    rig.scheduler.observe_step(StepTotals(1, decode_rows=1, seconds=0.05))
    rig.scheduler.observe_step(StepTotals(1, prefill_tokens=10, seconds=0.05))
    rig.add("l", 200, tenant="long")
    assert rig.step() == {"a": (4, 1, True), "l": (0, 8, False)}, "two blocks"
    rig.scheduler.cancel("a")
    assert rig.step() == {"l": (8, 64, False)}, "nobody waits for its next token"
