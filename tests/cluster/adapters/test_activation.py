"""Checks where an activated LoRA begins to apply, against PEFT's own search."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.tuners.lora.config import LoraConfig
from peft.tuners.lora.variants import calculate_alora_offsets

from cluster.adapters.activation import active_from, stretches

TOKENS = st.integers(0, 2)


@given(st.lists(TOKENS, min_size=1, max_size=12), st.lists(TOKENS, min_size=1, max_size=4))
def test_it_begins_where_peft_says(prompt: list[int], invocation: list[int]) -> None:
    config = LoraConfig(alora_invocation_tokens=invocation, task_type="CAUSAL_LM")
    (offset,) = calculate_alora_offsets({"a": config}, "a", torch.tensor([prompt]))
    assert active_from(prompt, invocation) == (None if offset is None else len(prompt) - offset)


def test_an_ordinary_adapter_applies_from_the_start() -> None:
    assert active_from((), ()) == 0
    assert active_from((1, 2), ()) == 0


def test_an_invocation_longer_than_the_prompt_is_not_there() -> None:
    assert active_from((1, 2), (1, 2, 3)) is None


def test_stretches_begin_where_adapters_do() -> None:
    assert stretches([]) == [(0, ())]
    assert stretches([0]) == [(0, (0,))]
    assert stretches([None]) == [(0, ())]
    assert stretches([7]) == [(0, ()), (7, (0,))]
    assert stretches([7, 0, None, 3, 7]) == [(0, (1,)), (3, (1, 3)), (7, (0, 1, 3, 4))]


@given(st.lists(st.none() | st.integers(0, 9), max_size=5), st.integers(0, 12))
def test_each_token_has_the_adapters_that_have_begun(starts: list[int | None], token: int) -> None:
    found = stretches(starts)
    assert [cut for cut, _ in found] == sorted({cut for cut, _ in found})
    places = [places for cut, places in found if cut <= token][-1]
    assert places == tuple(i for i, s in enumerate(starts) if s is not None and s <= token)
