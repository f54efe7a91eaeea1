"""Checks what a gate weighed, in answers that ask for it."""

from typing import Any

import pytest

from cluster.domain.request import FinishReason
from deployments.front.openai.answers import Envelope
from deployments.front.openai.chat_answer import ChatAnswer
from deployments.front.openai.completion_answer import CompletionAnswer
from deployments.front.openai.wire import CompletionBody
from deployments.front.sequences.sequence_answer import Delta, SequenceAnswer

WEIGHTS = (((0.25, 0.123456), (1.0, -0.5)), ((0.0, 1.0), (0.5, 0.5)))


def told() -> SequenceAnswer:
    choice = SequenceAnswer()
    for token, weights in enumerate(WEIGHTS):
        choice.add(Delta("x", (token,), (), gate_adapters=("de", "sql"), gate_weights=weights))
    choice.add(Delta("y", (), ()))
    return choice


@pytest.mark.parametrize("answer", [ChatAnswer, CompletionAnswer])
def test_weights_are_told_by_token_layer_and_adapter(answer: Any) -> None:
    envelope = Envelope("1", 0, "auto:flow", None, logprobs=False)  # type: ignore[arg-type]
    gated, plain = answer(envelope).whole([told(), SequenceAnswer()], {})["choices"]
    assert gated["explain"] == {
        "adapters": ["de", "sql"],
        "gate_weights": [[[0.25, 0.1235], [1.0, -0.5]], [[0.0, 1.0], [0.5, 0.5]]],
    }
    assert "explain" not in plain


@pytest.mark.parametrize("answer", [ChatAnswer, CompletionAnswer])
def test_a_streamed_choice_is_explained_by_its_last_chunk(answer: Any) -> None:
    envelope = Envelope("1", 0, "auto:flow", None, logprobs=False)  # type: ignore[arg-type]
    choice = told()
    choice.decision = {"router": "flow", "candidates": []}
    last = Delta("", (), (), finish_reason=FinishReason.STOP)
    (chunk,) = answer(envelope).chunk(0, last, False, choice.explanation)["choices"]
    assert set(chunk["explain"]) == {"router", "candidates", "adapters", "gate_weights"}
    assert chunk["explain"]["gate_weights"][1] == [[0.0, 1.0], [0.5, 0.5]]
    (plain,) = answer(envelope).chunk(0, last, False, {})["choices"]
    assert "explain" not in plain


def test_explain_goes_with_stream() -> None:
    assert CompletionBody(model="m", prompt="p", explain=True, stream=True).explain
