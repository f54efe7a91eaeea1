"""Which part of a conversation a text router reads."""

from typing import Annotated

from pydantic import Field

from cluster.config import Section
from router_service.routers.segments import SegmentConfig, last_full_sentences


class TextPolicy(Section):
    """What reaches the router: the prompt or its tail, then, at a re-route, the answer's end."""

    prompt_characters: Annotated[int, Field(ge=1)] | None = None
    """Only about this many last characters of the prompt, from a word's start; unset: all of it."""
    answer_sentences: Annotated[int, Field(ge=1)] = 1
    """At a re-route: this many last full sentences of the answer so far."""
    segments: SegmentConfig = SegmentConfig()
    """How sentences of an answer are told apart."""


def read_text(policy: TextPolicy, prompt: str, answer: str = "") -> str:
    """The text that is routed: the prompt's tail, then the answer's last full sentences."""
    tail = _tail(prompt, policy.prompt_characters)
    last = last_full_sentences(answer, policy.answer_sentences, policy.segments)
    return f"{tail}\n{last}" if last else tail


def _tail(text: str, characters: int | None) -> str:
    if characters is None or len(text) <= characters:
        return text
    tail = text[-characters:]
    if text[-characters - 1].isspace():
        return tail
    _, space, rest = tail.partition(" ")
    return rest if space else tail
