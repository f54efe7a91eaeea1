"""Turns the deltas of an answer's choices into the bytes of server-sent events."""

from collections.abc import AsyncGenerator, Sequence

from cluster.errors import BraidError
from deployments.front.http import problem
from deployments.front.http.sse import DONE, event
from deployments.front.openai.answers import AnswerFormat, TextEvents, usage_body
from deployments.front.requests.request_service import RequestService
from deployments.front.requests.running import Running
from deployments.front.sequences.choice import Choice
from deployments.front.sequences.sequence_answer import Delta


class AnswerStream:
    """Encodes one streamed answer.

    Args:
        service: explains and ends the request.
        running: the request.
        wording: of its endpoint.
        include_usage: the client wants token counts.
        with_logprobs: the client wants log-probabilities.
    """

    def __init__(
        self,
        service: RequestService,
        running: Running,
        wording: AnswerFormat,
        *,
        include_usage: bool,
        with_logprobs: bool,
    ) -> None:
        self._service = service
        self._running = running
        self._wording = wording
        self._include_usage = include_usage
        self._texts: list[TextEvents] | None = None
        if not with_logprobs:
            self._texts = [
                TextEvents(wording, index, include_usage) for index in range(len(running.choices))
            ]

    async def events(self, first: Sequence[tuple[Choice, Delta]]) -> AsyncGenerator[bytes, None]:
        """Yield events, joined as they come, and end the request.

        Args:
            first: deltas that have come already; the very first one is always sent.
        """
        service, running = self._service, self._running
        try:
            yield self._openings() + await self._encode(first, first_is_told=True)
            while deltas := await running.relay.next_deltas():
                if data := await self._encode(deltas):
                    yield data
            usage = self._usage() if self._include_usage else b""
        except BraidError as error:
            service.finish(running, error)
            yield event(problem.body_of(error))
            return
        except BaseException as error:
            service.finish(running, error)
            raise
        service.finish(running, None)
        yield usage + DONE

    async def _encode(
        self, deltas: Sequence[tuple[Choice, Delta]], *, first_is_told: bool = False
    ) -> bytes:
        """Encode deltas, one event each; those that say nothing are left out."""
        events: list[bytes] = []
        for choice, delta in deltas:
            if self._texts is not None and delta.text and delta.finish_reason is None:
                events.append(self._texts[choice.index].encode(delta.text))
            elif first_is_told or delta.says_something:
                events.append(event(await self._chunk(choice, delta)))
            first_is_told = False
        return b"".join(events)

    async def _chunk(self, choice: Choice, delta: Delta) -> dict[str, object]:
        """Build one chunk; a choice's last one has its explanation."""
        explanation = {}
        if delta.finish_reason is not None:
            await self._service.explain(self._running)
            explanation = choice.answer.explanation
        return self._wording.chunk(choice.index, delta, self._include_usage, explanation)

    def _openings(self) -> bytes:
        events: list[bytes] = []
        for choice in self._running.choices:
            opening = self._wording.opening(choice.index)
            if opening is not None:
                events.append(event({**opening, "usage": None} if self._include_usage else opening))
        return b"".join(events)

    def _usage(self) -> bytes:
        usage = usage_body(self._running.answers, self._running.prompts)
        return event(self._wording.usage_chunk(usage))
