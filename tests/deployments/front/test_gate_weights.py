"""What a gate weighed, in answers that ask for it."""

from typing import Any

import pytest
from pydantic import ValidationError

from deployments.front.answers import ChatAnswer, Choice, CompletionAnswer, Envelope
from deployments.front.generation import Delta
from deployments.front.wire import CompletionBody

WEIGHTS = (((0.25, 0.123456), (1.0, -0.5)), ((0.0, 1.0), (0.5, 0.5)))


def told() -> Choice:
    choice = Choice()
    for token, weights in enumerate(WEIGHTS):
        choice.add(Delta("x", (token,), (), gate_adapters=("de", "sql"), gate_weights=weights))
    choice.add(Delta("y", (), ()))
    return choice


@pytest.mark.parametrize("answer", [ChatAnswer, CompletionAnswer])
def test_weights_are_told_by_token_layer_and_adapter(answer: Any) -> None:
    envelope = Envelope("1", 0, "auto:flow", None, logprobs=False)  # type: ignore[arg-type]
    gated, plain = answer(envelope).whole([told(), Choice()], {})["choices"]
    assert gated["explain"] == {
        "adapters": ["de", "sql"],
        "gate_weights": [[[0.25, 0.1235], [1.0, -0.5]], [[0.0, 1.0], [0.5, 0.5]]],
    }
    assert "explain" not in plain


def test_explain_does_not_stream() -> None:
    with pytest.raises(ValidationError, match="explain: not together with stream"):
        CompletionBody(model="m", prompt="p", explain=True, stream=True)
