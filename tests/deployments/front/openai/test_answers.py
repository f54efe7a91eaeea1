"""Echoed prompts: streamed text is the whole answer's, choice by choice."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.domain.request import FinishReason, TokenLogprobs, Usage
from deployments.front.openai.answers import Envelope
from deployments.front.openai.completion_answer import CompletionAnswer
from deployments.front.sequences.sequence_answer import Delta, Echo, SequenceAnswer
from deployments.front.text.text_stream import TextCodec
from deployments.front.text.token_bytes import TokenPlace

CODEC = cast(TextCodec, SimpleNamespace(token_name=lambda token, _: f"<{token}>"))
ENVELOPE = Envelope(id="1", created=0, model="m", codec=CODEC, logprobs=False)
ECHOES = (Echo("prompt a ", (10, 11)), Echo("prompt b ", (20, 21)))
DELTAS = [
    (0, Delta("one", (1,), ())),
    (1, Delta("two", (2,), ())),
    (1, Delta("", (3,), (), FinishReason.STOP, Usage(4, 2))),
    (0, Delta(" more", (4,), (), FinishReason.LENGTH, Usage(4, 2))),
]


@pytest.mark.parametrize("echoes", [(), ECHOES], ids=["plain", "echo"])
def test_streamed_equals_whole(echoes: tuple[Echo, ...]) -> None:
    wording = CompletionAnswer(ENVELOPE, echoes)
    choices = [SequenceAnswer(), SequenceAnswer()]
    streamed: list[dict[str, Any]] = []
    for index in range(2):
        opening = wording.opening(index)
        assert (opening is None) == (not echoes)
        if opening is not None:
            streamed += opening["choices"]
    for index, delta in DELTAS:
        choices[index].add(delta)
        streamed += wording.chunk(index, delta, include_usage=False, explanation={})["choices"]
    whole = wording.whole(choices, {})["choices"]
    for index, choice in enumerate(whole):
        parts = [part for part in streamed if part["index"] == index]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert [part["finish_reason"] for part in parts][-1] == choice["finish_reason"]
        assert choice["text"].startswith(echoes[index].text if echoes else DELTAS[index][1].text)


def scored(*items: tuple[int, float]) -> tuple[TokenLogprobs, ...]:
    """Return log-probabilities of these tokens; the likeliest two are always tokens 5 and 6."""
    return tuple(TokenLogprobs(value, ((5, -0.1), (6, -0.2))) for _, value in items)


def delta(text: str, *tokens: tuple[int, float], at: int = 0, **fields: Any) -> Delta:
    """Make a delta whose tokens all begin at ``at`` in the text that was generated."""
    places = tuple(TokenPlace(at, at == 0, True) for _ in tokens)
    ids = tuple(token for token, _ in tokens)
    return Delta(text, ids, scored(*tokens), places=places, **fields)


@pytest.mark.parametrize("pieces", [(2, 0), (1, 1), (0, 2), (1, 0, 1)])
def test_an_echoed_prompt_is_scored_before_what_follows(pieces: tuple[int, ...]) -> None:
    envelope = Envelope(id="1", created=0, model="m", codec=CODEC, logprobs=True)
    prompt = scored((0, -1.0), (0, -2.0))
    deltas = []
    start = 0
    for size in pieces:
        deltas.append(delta("", prompt_logprobs=prompt[start : start + size]))
        start += size
    deltas[-1] = delta("x", (5, -3.0), prompt_logprobs=deltas[-1].prompt_logprobs)
    deltas.append(delta("y", (8, -4.0), at=1, finish_reason=FinishReason.LENGTH, usage=Usage(3, 2)))

    wording = CompletionAnswer(envelope, (Echo("a b c", (1, 2, 3), (0, 1, 3)),))
    assert wording.opening(0) is None
    parts = [
        wording.chunk(0, item, include_usage=False, explanation={})["choices"][0] for item in deltas
    ]
    choice = SequenceAnswer()
    for item in deltas:
        choice.add(item)
    again = CompletionAnswer(envelope, (Echo("a b c", (1, 2, 3), (0, 1, 3)),))
    (whole,) = again.whole([choice], {})["choices"]

    assert whole["text"] == "a b cxy" == "".join(part["text"] for part in parts)
    assert parts[0]["text"].startswith("a b c")
    found = whole["logprobs"]
    assert found["tokens"] == ["<1>", "<2>", "<3>", "<5>", "<8>"]
    assert found["token_logprobs"] == [None, -1.0, -2.0, -3.0, -4.0]
    assert found["top_logprobs"][:2] == [None, {"<5>": -0.1, "<6>": -0.2, "<2>": -1.0}]
    assert found["top_logprobs"][3] == {"<5>": -0.1, "<6>": -0.2}
    assert found["text_offset"] == [0, 1, 3, 5, 6]
    for name, values in found.items():
        assert [value for part in parts for value in part["logprobs"][name]] == values, name


def test_one_token_of_prompt_and_nothing_more() -> None:
    envelope = Envelope(id="1", created=0, model="m", codec=CODEC, logprobs=True)
    wording = CompletionAnswer(envelope, (Echo("a", (1,), (0,)),))
    end = delta("", finish_reason=FinishReason.LENGTH, usage=Usage(1, 0))
    (part,) = wording.chunk(0, end, include_usage=False, explanation={})["choices"]
    assert (part["text"], part["finish_reason"]) == ("a", "length")
    assert part["logprobs"] == {
        "tokens": ["<1>"],
        "token_logprobs": [None],
        "top_logprobs": [None],
        "text_offset": [0],
    }
