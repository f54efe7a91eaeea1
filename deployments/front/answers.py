"""The bodies of successful answers, in OpenAI's two shapes, whole and as stream chunks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.domain.request import FinishReason, TokenLogprobs, Usage
from deployments.front.generation import Delta
from deployments.front.text import TextCodec

JsonObject = dict[str, Any]
GATE_DECIMALS = 4


@dataclass(slots=True)
class Choice:
    """One sequence of an answer, as far as it has come."""

    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
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


def _finish(reason: FinishReason | None) -> str | None:
    return None if reason is None else reason.value


class ChatAnswer:
    """``chat.completion`` and ``chat.completion.chunk``."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope

    def _base(self, kind: str, choices: list[JsonObject]) -> JsonObject:
        envelope = self._envelope
        return {
            "id": f"chatcmpl-{envelope.id}",
            "object": kind,
            "created": envelope.created,
            "model": envelope.model,
            "choices": choices,
        }

    def _logprobs(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]
    ) -> JsonObject | None:
        if not self._envelope.logprobs:
            return None
        return {
            "content": [
                {
                    **self._token(token_id, item.logprob),
                    "top_logprobs": [self._token(other, value) for other, value in item.top],
                }
                for token_id, item in zip(token_ids, logprobs, strict=True)
            ],
            "refusal": None,
        }

    def _token(self, token_id: int, logprob: float) -> JsonObject:
        text = self._envelope.codec.token_text(token_id)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    def opening(self, index: int) -> JsonObject:
        choice = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        return self._base("chat.completion.chunk", [choice])

    def chunk(
        self, index: int, delta: Delta, include_usage: bool, explanation: JsonObject
    ) -> JsonObject:
        content: JsonObject = {"content": delta.text} if delta.text else {}
        body = self._base(
            "chat.completion.chunk",
            [
                {
                    "index": index,
                    "delta": content,
                    "logprobs": self._logprobs(delta.token_ids, delta.logprobs),
                    "finish_reason": _finish(delta.finish_reason),
                    **explanation,
                }
            ],
        )
        if include_usage:
            body["usage"] = None
        return body

    def usage_chunk(self, usage: JsonObject) -> JsonObject:
        return {**self._base("chat.completion.chunk", []), "usage": usage}

    def whole(self, choices: Sequence[Choice], usage: JsonObject) -> JsonObject:
        bodies = [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": "".join(choice.text),
                    "refusal": None,
                },
                "logprobs": self._logprobs(choice.token_ids, choice.logprobs),
                "finish_reason": _finish(choice.finish_reason),
                **choice.explanation,
            }
            for index, choice in enumerate(choices)
        ]
        return {**self._base("chat.completion", bodies), "usage": usage}


class CompletionAnswer:
    """``text_completion``, the same kind of object streamed or not.

    Args:
        envelope: what every chunk repeats.
        echoes: the prompt that each choice begins with; empty where none does. Where
            log-probabilities are asked for, they begin with the prompt's.
    """

    def __init__(self, envelope: Envelope, echoes: Sequence[Echo] = ()) -> None:
        self._envelope = envelope
        self._echoes = echoes
        self._offsets: dict[int, int] = {}
        self._echoed: dict[int, int] = {}  # by choice: prompt tokens that have been reported

    def _base(self, choices: list[JsonObject]) -> JsonObject:
        envelope = self._envelope
        return {
            "id": f"cmpl-{envelope.id}",
            "object": "text_completion",
            "created": envelope.created,
            "model": envelope.model,
            "choices": choices,
        }

    def _logprobs(
        self,
        index: int,
        token_ids: Sequence[int],
        logprobs: Sequence[TokenLogprobs],
        prompt_logprobs: Sequence[TokenLogprobs],
    ) -> JsonObject | None:
        if not self._envelope.logprobs:
            return None
        told: list[TokenLogprobs | None] = [*prompt_logprobs, *logprobs]
        if self._echoes:
            prompt = self._echoes[index].token_ids
            start = self._echoed.get(index, 0)
            if start == 0:
                told.insert(0, None)  # nothing comes before the first token
            end = max(start, 1) + len(prompt_logprobs)
            self._echoed[index] = end
            token_ids = (*prompt[start:end], *token_ids)
        codec = self._envelope.codec
        tokens = [codec.token_text(token_id) for token_id in token_ids]
        offsets = []
        position = self._offsets.get(index, 0)
        for token in tokens:
            offsets.append(position)
            position += len(token)
        self._offsets[index] = position
        return {
            "tokens": tokens,
            "token_logprobs": [None if item is None else item.logprob for item in told],
            "top_logprobs": [
                None if item is None else self._top(token, item)
                for token, item in zip(tokens, told, strict=True)
            ],
            "text_offset": offsets,
        }

    def _top(self, token: str, item: TokenLogprobs) -> dict[str, float]:
        """By text; the token itself is always among them, as in OpenAI's answers."""
        found: dict[str, float] = {}
        for other, value in item.top:
            found.setdefault(self._envelope.codec.token_text(other), value)
        found.setdefault(token, item.logprob)
        return found

    def _choice(
        self,
        index: int,
        text: str,
        logprobs: JsonObject | None,
        reason: FinishReason | None,
    ) -> JsonObject:
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": _finish(reason),
        }

    def opening(self, index: int) -> JsonObject | None:
        if not self._echoes or self._envelope.logprobs:
            return None
        return self._base([self._choice(index, self._echoes[index].text, None, None)])

    def chunk(
        self, index: int, delta: Delta, include_usage: bool, explanation: JsonObject
    ) -> JsonObject:
        text = delta.text
        if self._echoes and self._envelope.logprobs and index not in self._echoed:
            text = self._echoes[index].text + text
        logprobs = self._logprobs(index, delta.token_ids, delta.logprobs, delta.prompt_logprobs)
        choice = self._choice(index, text, logprobs, delta.finish_reason)
        body = self._base([{**choice, **explanation}])
        if include_usage:
            body["usage"] = None
        return body

    def usage_chunk(self, usage: JsonObject) -> JsonObject:
        return {**self._base([]), "usage": usage}

    def whole(self, choices: Sequence[Choice], usage: JsonObject) -> JsonObject:
        bodies = [
            {
                **self._choice(
                    index,
                    (self._echoes[index].text if self._echoes else "") + "".join(choice.text),
                    self._logprobs(
                        index, choice.token_ids, choice.logprobs, choice.prompt_logprobs
                    ),
                    choice.finish_reason,
                ),
                **choice.explanation,
            }
            for index, choice in enumerate(choices)
        ]
        return {**self._base(bodies), "usage": usage}
