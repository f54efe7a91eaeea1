"""What successful answers of both endpoints have in common, whole or as stream chunks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.domain.request import FinishReason, TokenLogprobs, Usage
from deployments.front.requests.generation import Delta
from deployments.front.text.text_stream import TextCodec
from deployments.front.text.token_bytes import TokenPlace

JsonObject = dict[str, Any]
GATE_DECIMALS = 4


@dataclass(slots=True)
class Choice:
    """One sequence of an answer, as far as it has come."""

    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    places: list[TokenPlace] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    gate_adapters: tuple[str, ...] = ()
    gate_weights: list[tuple[tuple[float, ...], ...]] = field(default_factory=list)
    decision: JsonObject = field(default_factory=dict)  # how its mixture came about, if asked
    finish_reason: FinishReason | None = None
    usage: Usage | None = None

    @property
    def explanation(self) -> JsonObject:
        """The member ``explain``: how the mixture came about, and a gate's weights by
        [tokens][layers][adapters]; nothing where neither was asked for."""
        if not self.gate_weights:
            return {"explain": self.decision} if self.decision else {}
        rounded = [
            [[round(weight, GATE_DECIMALS) for weight in layer] for layer in token]
            for token in self.gate_weights
        ]
        gate = {"adapters": list(self.gate_adapters), "gate_weights": rounded}
        return {"explain": {**self.decision, **gate}}

    def add(self, delta: Delta) -> None:
        """Append what one step brought."""
        self.text.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs)
        self.places.extend(delta.places)
        self.prompt_logprobs.extend(delta.prompt_logprobs)
        if delta.gate_weights:
            self.gate_adapters = delta.gate_adapters
            self.gate_weights.append(delta.gate_weights)
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason
            self.usage = delta.usage


@dataclass(frozen=True, slots=True)
class Echo:
    """The prompt that a choice begins with."""

    text: str
    token_ids: tuple[int, ...]
    offsets: tuple[int, ...] = ()  # where each token begins in the text, where asked for


def usage_body(choices: Sequence[Choice], prompts: int) -> JsonObject:
    """Token counts of a whole answer. A prompt with several choices is counted once.

    Args:
        choices: all sequences, in order of prompt, then of choice.
        prompts: number of prompts.
    """
    per_prompt = max(1, len(choices) // prompts)
    reported = [choice.usage for choice in choices]
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
    """How one endpoint words its answers."""

    def opening(self, index: int) -> JsonObject | None:
        """A chunk before the first text of a choice, if the shape has one."""
        ...

    def chunk(
        self, index: int, delta: Delta, include_usage: bool, explanation: JsonObject
    ) -> JsonObject:
        """One streamed chunk; ``explanation`` becomes part of its choice."""
        ...

    def usage_chunk(self, usage: JsonObject) -> JsonObject:
        """The chunk with the token counts."""
        ...

    def whole(self, choices: Sequence[Choice], usage: JsonObject) -> JsonObject:
        """The answer to a request that does not stream."""
        ...


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every chunk of an answer repeats."""

    id: str
    created: int  # seconds since the epoch
    model: str
    codec: TextCodec
    logprobs: bool


def finish_word(reason: FinishReason | None) -> str | None:
    """The value of ``finish_reason``; None while the choice goes on."""
    return None if reason is None else reason.value
