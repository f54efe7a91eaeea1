"""Words answers of ``/v1/chat/completions``, whole and as stream chunks."""

from collections.abc import Sequence

from deployments.front.openai.answers import Envelope, JsonObject, finish_word
from deployments.front.sequences.sequence_answer import Delta, SequenceAnswer
from deployments.front.text.token_bytes import TokenPlace


class ChatAnswer:
    """Words ``chat.completion`` and ``chat.completion.chunk``."""

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

    def _logprobs(self, said: SequenceAnswer | Delta) -> JsonObject | None:
        if not self._envelope.logprobs:
            return None
        codec = self._envelope.codec
        return {
            "content": [
                {
                    **self._token(token_id, item.logprob, place),
                    "top_logprobs": [
                        self._token(other, value, codec.alternative(other, place))
                        for other, value in item.top
                    ],
                }
                for token_id, item, place in zip(
                    said.token_ids, said.logprobs, said.places, strict=True
                )
            ],
            "refusal": None,
        }

    def _token(self, token_id: int, logprob: float, place: TokenPlace) -> JsonObject:
        codec = self._envelope.codec
        return {
            "token": codec.token_text(token_id, place),
            "logprob": logprob,
            "bytes": codec.token_bytes(token_id, place),
        }

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
                    "logprobs": self._logprobs(delta),
                    "finish_reason": finish_word(delta.finish_reason),
                    **explanation,
                }
            ],
        )
        if include_usage:
            body["usage"] = None
        return body

    def usage_chunk(self, usage: JsonObject) -> JsonObject:
        return {**self._base("chat.completion.chunk", []), "usage": usage}

    def whole(self, answers: Sequence[SequenceAnswer], usage: JsonObject) -> JsonObject:
        bodies = [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": "".join(answer.text),
                    "refusal": None,
                },
                "logprobs": self._logprobs(answer),
                "finish_reason": finish_word(answer.finish_reason),
                **answer.explanation,
            }
            for index, answer in enumerate(answers)
        ]
        return {**self._base("chat.completion", bodies), "usage": usage}
