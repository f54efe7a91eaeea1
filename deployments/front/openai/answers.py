"""Defines what successful answers of both endpoints have in common, whole or as stream chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from cluster.domain.request import FinishReason
from deployments.front.http.sse import event
from deployments.front.sequences.sequence_answer import Delta, SequenceAnswer
from deployments.front.text.text_stream import TextCodec

JsonObject = dict[str, Any]
PLACE_OF_TEXT = "\ue000text of a chunk\ue001"
"""Private-use characters: in no name that an answer repeats."""


def usage_body(answers: Sequence[SequenceAnswer], prompts: int) -> JsonObject:
    """Return the token counts of a whole answer. A prompt with several choices is counted once.

    Args:
        answers: all sequences, in order of prompt, then of choice.
        prompts: number of prompts.
    """
    per_prompt = max(1, len(answers) // prompts)
    reported = [answer.usage for answer in answers]
    first = [usage for usage in reported[::per_prompt] if usage is not None]
    prompt_tokens = sum(usage.prompt_tokens for usage in first)
    completion = sum(usage.completion_tokens for usage in reported if usage is not None)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in first)},
    }


class AnswerFormat(Protocol):
    """Words the answers of one endpoint."""

    def opening(self, index: int) -> JsonObject | None:
        """Return a chunk before the first text of a choice, if the shape has one."""
        ...

    def chunk(
        self, index: int, delta: Delta, include_usage: bool, explanation: JsonObject
    ) -> JsonObject:
        """Return one streamed chunk; ``explanation`` becomes part of its choice."""
        ...

    def usage_chunk(self, usage: JsonObject) -> JsonObject:
        """Return the chunk with the token counts."""
        ...

    def whole(self, answers: Sequence[SequenceAnswer], usage: JsonObject) -> JsonObject:
        """Return the answer to a request that does not stream."""
        ...


@dataclass(frozen=True, slots=True)
class Envelope:
    """Holds what every chunk of an answer repeats."""

    id: str
    created: int  # seconds since the epoch
    model: str
    codec: TextCodec
    logprobs: bool


class TextEvents:
    """Encodes the chunks of one choice that bring text alone: all but the text is encoded once.

    Args:
        wording: of the endpoint.
        index: of the choice.
        include_usage: as in ``AnswerFormat.chunk``.
    """

    def __init__(self, wording: AnswerFormat, index: int, include_usage: bool) -> None:
        example = wording.chunk(index, Delta(PLACE_OF_TEXT, (), ()), include_usage, {})
        self._before, _, self._after = event(example).partition(orjson.dumps(PLACE_OF_TEXT))

    def encode(self, text: str) -> bytes:
        """Return the event of a chunk with this text."""
        return self._before + orjson.dumps(text) + self._after


def finish_word(reason: FinishReason | None) -> str | None:
    """Return the value of ``finish_reason``; None while the choice goes on."""
    return None if reason is None else reason.value
