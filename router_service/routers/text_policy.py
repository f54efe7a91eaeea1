"""Which part of a conversation a text router reads."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from cluster.config import Section
from router_service.routers.sentences import SentenceConfig, last_full_sentences

MAX_HISTORY = 16


class TextPolicy(Section):
    """What reaches the router: the prompt or its tail, then, at a re-route, the answer's end."""

    prompt_characters: Annotated[int, Field(ge=1)] | None = None
    """Only about this many last characters of the prompt, from a word's start; unset: all of it."""
    answer_sentences: Annotated[int, Field(ge=1)] = 1
    """At a re-route: this many last full sentences of the answer so far."""
    sentences: SentenceConfig = SentenceConfig()
    """How sentences of an answer are told apart."""
    history: Annotated[int, Field(ge=0, le=MAX_HISTORY)] = 3
    """User turns before the last one that a follow-up may go back to; 0: the last turn alone."""
    carry: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of an earlier turn's decision that a turn which follows it up takes over; the rest is
    the base's."""


def read_text(policy: TextPolicy, prompt: str, answer: str = "") -> str:
    """The text that is routed: the prompt's tail, then the answer's last full sentences."""
    tail = _tail(prompt, policy.prompt_characters)
    last = last_full_sentences(answer, policy.answer_sentences, policy.sentences)
    return f"{tail}\n{last}" if last else tail


def read_earlier(policy: TextPolicy, earlier: Sequence[str]) -> list[str]:
    """The earlier turns that are read, each cut as the prompt is; the oldest first."""
    kept = earlier[-policy.history :] if policy.history else ()
    return [_tail(turn, policy.prompt_characters) for turn in kept]


def _tail(text: str, characters: int | None) -> str:
    if characters is None or len(text) <= characters:
        return text
    tail = text[-characters:]
    if text[-characters - 1].isspace():
        return tail
    _, space, rest = tail.partition(" ")
    return rest if space else tail
