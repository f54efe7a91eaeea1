"""Words answers of ``/v1/completions``, whole and as stream chunks."""

from collections.abc import Sequence
from dataclasses import replace

from cluster.domain.request import FinishReason, TokenLogprobs
from deployments.front.openai.answers import Envelope, JsonObject, finish_word
from deployments.front.sequences.sequence_answer import Delta, Echo, SequenceAnswer
from deployments.front.text.token_bytes import TokenPlace


class CompletionAnswer:
    """Words ``text_completion``, the same kind of object streamed or not.

    Args:
        envelope: what every chunk repeats.
        echoes: the prompt that each choice begins with, or empty if none does. If
            log-probabilities are asked for, they begin with the prompt's.
    """

    def __init__(self, envelope: Envelope, echoes: Sequence[Echo] = ()) -> None:
        self._envelope = envelope
        self._echoes = echoes
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
        self, index: int, said: SequenceAnswer | Delta, text_end: int | None = None
    ) -> JsonObject | None:
        """Return the log-probabilities of an echoed prompt and of what follows, if asked for.

        Offsets are at most ``text_end``.
        """
        if not self._envelope.logprobs:
            return None
        codec = self._envelope.codec
        told: list[TokenLogprobs | None] = [*said.prompt_logprobs, *said.logprobs]
        token_ids: Sequence[int] = said.token_ids
        places: list[TokenPlace] = list(said.places)
        if self._echoes:
            echo = self._echoes[index]
            start = self._echoed.get(index, 0)
            if start == 0:
                told.insert(0, None)  # nothing comes before the first token
            end = max(start, 1) + len(said.prompt_logprobs)
            self._echoed[index] = end
            token_ids = (*echo.token_ids[start:end], *token_ids)
            before = [TokenPlace(offset, False, True) for offset in echo.offsets[start:end]]
            shift = len(echo.text)
            after = [replace(place, offset=place.offset + shift) for place in places]
            places = [*before, *after]
        tokens = [
            codec.token_name(token_id, place)
            for token_id, place in zip(token_ids, places, strict=True)
        ]
        offsets = [place.offset for place in places]
        if text_end is not None:
            offsets = [min(offset, text_end) for offset in offsets]
        return {
            "tokens": tokens,
            "token_logprobs": [None if item is None else item.logprob for item in told],
            "top_logprobs": [
                None if item is None else self._top(token, item, place)
                for token, item, place in zip(tokens, told, places, strict=True)
            ],
            "text_offset": offsets,
        }

    def _top(self, token: str, item: TokenLogprobs, place: TokenPlace) -> dict[str, float]:
        """Return alternatives by text; the token itself is always among them, as in OpenAI's."""
        found: dict[str, float] = {}
        for other, value in item.top:
            found.setdefault(self._envelope.codec.token_name(other, place), value)
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
            "finish_reason": finish_word(reason),
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
        logprobs = self._logprobs(index, delta)
        choice = self._choice(index, text, logprobs, delta.finish_reason)
        body = self._base([{**choice, **explanation}])
        if include_usage:
            body["usage"] = None
        return body

    def usage_chunk(self, usage: JsonObject) -> JsonObject:
        return {**self._base([]), "usage": usage}

    def whole(self, answers: Sequence[SequenceAnswer], usage: JsonObject) -> JsonObject:
        bodies = []
        for index, answer in enumerate(answers):
            text = (self._echoes[index].text if self._echoes else "") + "".join(answer.text)
            logprobs = self._logprobs(index, answer, len(text))
            body = self._choice(index, text, logprobs, answer.finish_reason)
            bodies.append({**body, **answer.explanation})
        return {**self._base(bodies), "usage": usage}
