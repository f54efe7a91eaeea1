"""Collects one sequence of an answer, delta by delta."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from cluster.domain.request import FinishReason, TokenLogprobs, Usage
from deployments.front.text.token_bytes import TokenPlace

GATE_DECIMALS = 4


class Delta(msgspec.Struct, frozen=True):
    """Holds what one step adds to a sequence."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()  # of the prompt's next tokens
    gate_adapters: tuple[str, ...] = ()  # aliases, in the gate's order, as in its weights
    gate_weights: tuple[tuple[float, ...], ...] = ()  # [layers][adapters] behind the token
    places: tuple[TokenPlace, ...] = ()  # one per token id where log-probabilities are asked for

    @property
    def says_something(self) -> bool:
        """Return whether a client can see it in a stream."""
        return bool(
            self.text or self.logprobs or self.prompt_logprobs or self.finish_reason is not None
        )


@dataclass(slots=True)
class SequenceAnswer:
    """Holds one sequence of an answer, as far as it has come."""

    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    places: list[TokenPlace] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    gate_adapters: tuple[str, ...] = ()
    gate_weights: list[tuple[tuple[float, ...], ...]] = field(default_factory=list)
    decision: dict[str, Any] = field(default_factory=dict)  # how its mixture came about, if asked
    finish_reason: FinishReason | None = None
    usage: Usage | None = None

    @property
    def explanation(self) -> dict[str, Any]:
        """Return the member ``explain``, or nothing if it was not asked for.

        It tells how the mixture came about, and a gate's weights by [tokens][layers][adapters].
        """
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
        if delta.logprobs or delta.prompt_logprobs:
            self.logprobs.extend(delta.logprobs)
            self.prompt_logprobs.extend(delta.prompt_logprobs)
        if delta.places:
            self.places.extend(delta.places)
        if delta.gate_weights:
            self.gate_adapters = delta.gate_adapters
            self.gate_weights.append(delta.gate_weights)
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason
            self.usage = delta.usage


@dataclass(frozen=True, slots=True)
class Echo:
    """Holds the prompt that a choice begins with."""

    text: str
    token_ids: tuple[int, ...]
    offsets: tuple[int, ...] = ()  # where each token begins in the text, where asked for
