"""Echoed prompts: streamed text is the whole answer's, choice by choice."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.domain.request import FinishReason, Usage
from deployments.front.answers import Choice, CompletionAnswer, Envelope
from deployments.front.generation import Delta
from deployments.front.text import TextCodec

ENVELOPE = Envelope(
    id="1", created=0, model="m", codec=cast(TextCodec, SimpleNamespace()), logprobs=False
)
DELTAS = [
    (0, Delta("one", (1,), ())),
    (1, Delta("two", (2,), ())),
    (1, Delta("", (3,), (), FinishReason.STOP, Usage(4, 2))),
    (0, Delta(" more", (4,), (), FinishReason.LENGTH, Usage(4, 2))),
]


@pytest.mark.parametrize("echoes", [(), ("prompt a ", "prompt b ")])
def test_streamed_equals_whole(echoes: tuple[str, ...]) -> None:
    wording = CompletionAnswer(ENVELOPE, echoes)
    choices = [Choice(), Choice()]
    streamed: list[dict[str, Any]] = []
    for index in range(2):
        opening = wording.opening(index)
        assert (opening is None) == (not echoes)
        if opening is not None:
            streamed += opening["choices"]
    for index, delta in DELTAS:
        choices[index].add(delta)
        streamed += wording.chunk(index, delta, include_usage=False)["choices"]
    whole = wording.whole(choices, {})["choices"]
    for index, choice in enumerate(whole):
        parts = [part for part in streamed if part["index"] == index]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert [part["finish_reason"] for part in parts][-1] == choice["finish_reason"]
        assert choice["text"].startswith(echoes[index] if echoes else DELTAS[index][1].text)
