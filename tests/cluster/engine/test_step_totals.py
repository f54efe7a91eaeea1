"""Checks what is counted of a step: a pure function of its plan."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.domain.ids import RequestId, Slot
from cluster.domain.request import GenerationRequest, SamplingParams
from cluster.domain.work import StepTotals
from cluster.engine.mixing import Mixing
from cluster.engine.sequence import EngineSequence
from cluster.engine.spans import Span
from cluster.engine.step_totals import step_totals
from cluster.engine.steps import ScheduledSequence, StepPlan
from tests.support.decisions import TENANT, decision_over

SIZES = {0: (100, 8), 1: (1000, 64), 2: (7, 1)}
BLOCK = 4


def sequence(
    prompt: int = 10,
    generated: int = 0,
    slots: Iterable[int] = (),
    spans: tuple[Span, ...] = (),
    mixing: Mixing | None = None,
) -> EngineSequence:
    request = GenerationRequest(
        request_id=RequestId("r"),
        tenant=TENANT,
        prompt_token_ids=(5,) * prompt,
        sampling=SamplingParams(max_tokens=100),
        decision=decision_over(),
        resumed_token_ids=(6,) * generated,
    )
    return EngineSequence.create(
        request,
        namespace="ns",
        adapters=tuple((Slot(slot), 0.5) for slot in slots),
        stop_token_ids=frozenset(),
        max_model_len=1000,
        mixing=mixing,
        spans=spans,
    )


def part(of: EngineSequence, start: int, count: int) -> ScheduledSequence:
    return ScheduledSequence(of, start, count, start + count == of.num_tokens)


def totals(*parts: ScheduledSequence) -> StepTotals:
    return step_totals(StepPlan(1, parts), BLOCK, lambda slot: SIZES.get(slot, (0, 0)))


def test_the_base_alone_has_no_rank_and_no_bytes():
    assert totals(part(sequence(10), 0, 10)) == StepTotals(1, 10, 0, 3, 0, 0)


def test_the_newest_token_of_a_sequence_that_generates_is_a_decode_row():
    assert totals(part(sequence(10, 3), 12, 1)) == StepTotals(1, 0, 1, 4, 0, 0)


def test_the_last_token_of_a_prompt_is_prefill_even_alone():
    assert totals(part(sequence(10), 9, 1)) == StepTotals(1, 1, 0, 3, 0, 0)


def test_what_is_computed_again_after_a_preemption_is_prefill():
    assert totals(part(sequence(10, 3), 8, 5)) == StepTotals(1, 5, 0, 4, 0, 0)
    assert totals(part(sequence(10, 3), 11, 1)) == StepTotals(1, 1, 0, 3, 0, 0)


def test_an_adapter_that_several_rows_use_is_read_once():
    step = totals(part(sequence(8, 1, [0]), 8, 1), part(sequence(6, 0, [0, 1]), 0, 6))
    assert (step.adapter_bytes, step.rank_rows) == (1100, 8 + 6 * 72)


def test_an_adapter_that_a_row_names_twice_is_applied_twice():
    step = totals(part(sequence(8, 1, [0, 0]), 8, 1))
    assert (step.adapter_bytes, step.rank_rows) == (100, 16)


def test_rows_count_for_the_span_that_they_lie_in():
    spans = (Span(4, "ns2", ((Slot(1), 1.0),)), Span(8, "ns3", ()))
    whole = sequence(10, 0, [0], spans)
    assert totals(part(whole, 0, 10)).rank_rows == 4 * 8 + 4 * 64
    assert totals(part(whole, 0, 10)).adapter_bytes == 1100
    assert totals(part(whole, 5, 2)) == StepTotals(1, 2, 0, 2, 1000, 128)
    assert totals(part(whole, 8, 2)).adapter_bytes == 0


@pytest.mark.parametrize("mixing", [Mixing(gate="g"), Mixing(router="r")])
def test_weights_within_the_model_change_no_count(mixing):
    with_it = part(sequence(8, 1, [0, 1], mixing=mixing), 8, 1)
    assert totals(with_it) == totals(part(sequence(8, 1, [0, 1]), 8, 1))


@given(
    st.lists(
        st.tuples(
            st.integers(1, 60),
            st.integers(0, 20),
            st.lists(st.integers(0, 2), max_size=3),
            st.data(),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_every_token_is_counted_once_and_steps_add_up(cases):
    parts = []
    for prompt, generated, slots, data in cases:
        one = sequence(prompt, generated, slots)
        start = data.draw(st.integers(0, one.num_tokens - 1))
        parts.append(part(one, start, data.draw(st.integers(1, one.num_tokens - start))))
    step = totals(*parts)
    assert step.prefill_tokens + step.decode_rows == sum(item.count for item in parts)
    alone = [totals(item) for item in parts]
    assert step.rank_rows == sum(one.rank_rows for one in alone)
    assert step.context_blocks == sum(one.context_blocks for one in alone)
    assert max(one.adapter_bytes for one in alone) <= step.adapter_bytes
    assert step.adapter_bytes <= sum(size for size, _ in SIZES.values())
