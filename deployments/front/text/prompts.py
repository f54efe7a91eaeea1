"""From a body to the token ids of its prompts, in bounded time: long ones off the event loop."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cluster.domain.ids import TenantId
from cluster.domain.request import SamplingParams
from cluster.errors import PromptTooLong, RequestError
from deployments.front.entry.heavy import HeavyWork
from deployments.front.http.limits import MAX_REPORTED, MAX_REQUEST_TOKENS, MAX_SEQUENCES
from deployments.front.openai.sampling import check_prompt
from deployments.front.openai.wire import CompletionBody, Message, RouteBody
from deployments.front.text.chat_template import PLAIN, TemplateOptions
from deployments.front.text.text_stream import TextCodec

T = TypeVar("T")

HERE_CHARS = 16_384
"""Tokenising so many takes a few milliseconds."""
HERE_ITEMS = 256
"""Messages or prompts; a chat template takes some microseconds for each."""
HERE_IDS = 16_384
SURE_BYTES = 16
"""Per token of the context: a text of so many is tokenised at once; a longer one in pieces first,
so that what cannot fit is never tokenised as a whole."""
PIECE_CHARS = 64 * 1024
CUT_TOKENS = 16
"""By which cutting a text may change its number of tokens."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is to be continued, and what a router reads of it."""

    ids: tuple[tuple[int, ...], ...]
    turns: tuple[str, ...]


class PromptReader:
    """Tokenises for one front.

    Args:
        codec: the base model's tokenizer.
        work: where long prompts are tokenised.
    """

    def __init__(self, codec: TextCodec, work: HeavyWork) -> None:
        self._codec = codec
        self._work = work
        self._longest_token = max(map(len, codec.backend.get_vocab()), default=1)

    async def of_chat(
        self,
        tenant: TenantId,
        messages: Sequence[Message],
        turns: tuple[str, ...],
        context: int,
        options: TemplateOptions = PLAIN,
    ) -> Prompts:
        """The prompt of a conversation.

        Args:
            tenant: whose conversation it is.
            messages: its turns.
            turns: what a router reads, the last one last.
            context: the longest sequence, in tokens.
            options: how they are rendered.

        Raises:
            PromptTooLong: it leaves no room for an answer.
            RequestError: the chat template refuses it.
        """

        def encode() -> Prompts:
            chat = [message.for_template() for message in messages]
            self._check_length([message["content"] for message in chat], context, "messages")
            ids = self._codec.encode_chat(chat, options)
            check_prompt(len(ids), context, self._codec.vocab_size, ids)
            return Prompts((tuple(ids),), turns)

        if len(messages) >= context:  # each is at least one token
            raise too_long(context, "messages")
        items = sum(1 if isinstance(m.content, str) else len(m.content or ()) for m in messages)
        if options.source is not None:  # a stranger's program
            return await self._work.run(tenant, encode)
        return await self._run(tenant, sum(len(m.text) for m in messages), items, encode)

    async def of_completion(self, tenant: TenantId, body: CompletionBody, context: int) -> Prompts:
        """The prompts of a completion. Raises as ``of_chat``, and where there are none."""

        def encode() -> Prompts:
            prompts = tuple(self._encode(item, context) for item in _items(body))
            for ids in prompts:
                check_prompt(len(ids), context, self._codec.vocab_size, ids)
            text = body.prompt if isinstance(body.prompt, str) else None
            if text is None:
                text = self._codec.backend.decode(list(prompts[0]))
            return Prompts(prompts, (text,))

        texts = body.texts
        tokens = sum(len(item) for item in _items(body) if not isinstance(item, str))
        items = max(len(texts), tokens * HERE_ITEMS // HERE_IDS)
        return await self._run(tenant, sum(map(len, texts)), items, encode)

    async def of_route(
        self, tenant: TenantId, body: RouteBody, context: int, options: TemplateOptions = PLAIN
    ) -> Prompts:
        """The prompt that is only decided for. Raises as ``of_chat``."""
        prompt = body.prompt
        if prompt is None:
            return await self.of_chat(
                tenant, body.messages or (), body.routing_turns, context, options
            )

        def encode() -> Prompts:
            return Prompts((self._encode(prompt, context),), body.routing_turns)

        return await self._run(tenant, len(prompt), 1, encode)

    async def _run(self, tenant: TenantId, characters: int, items: int, work: Callable[[], T]) -> T:
        if characters <= HERE_CHARS and items <= HERE_ITEMS:
            return work()
        return await self._work.run(tenant, work)

    def _encode(self, item: str | Sequence[int], context: int) -> tuple[int, ...]:
        if not isinstance(item, str):
            return tuple(item)
        self._check_length([item], context, "prompt")
        return tuple(self._codec.encode(item))

    def _check_length(self, texts: Iterable[str], context: int, param: str) -> None:
        """Refuse texts that have more tokens than the context without tokenising all of them.

        Raises:
            PromptTooLong: they do not fit, however they are joined.
        """
        known = [text.encode(errors="replace") for text in texts]
        size = sum(map(len, known))
        if size <= SURE_BYTES * context:
            return
        if size > self._longest_token * context:
            raise too_long(context, param)
        tokens = 0
        for text in texts:
            for start in range(0, len(text), PIECE_CHARS):
                piece = text[start : start + PIECE_CHARS]
                (encoding,) = self._codec.backend.encode_batch([piece], add_special_tokens=False)
                tokens += max(0, len(encoding) - CUT_TOKENS)
                if tokens >= context:
                    raise too_long(context, param)


def too_long(context: int, param: str) -> PromptTooLong:
    """The error of a prompt that was not tokenised to its end."""
    return PromptTooLong(
        f"the prompt has more tokens than the context window of {context} holds; shorten it",
        param=param,
    )


def check_sequences(prompts: int, n: int) -> None:
    """Refuse a request of too many sequences.

    Raises:
        RequestError: with both factors.
    """
    if prompts * n > MAX_SEQUENCES:
        raise RequestError(
            f"n: {prompts} prompts times {n} choices are {prompts * n} sequences; a request may "
            f"have {MAX_SEQUENCES}",
            param="n" if n > 1 else "prompt",
        )


def check_request(ids: Sequence[Sequence[int]], sampling: Sequence[SamplingParams], n: int) -> None:
    """Refuse sequences that together take more memory than a front has for one request.

    Raises:
        RequestError: names what to lower.
    """
    if len(ids) * n <= 1:
        return
    tokens = sum(map(len, ids)) * n
    if tokens > MAX_REQUEST_TOKENS:
        raise RequestError(
            f"n: the sequences have {tokens} prompt tokens; several in one request may have "
            f"{MAX_REQUEST_TOKENS} together",
            param="n" if n > 1 else "prompt",
        )
    reported = sum(_reported(len(prompt), one) for prompt, one in zip(ids, sampling, strict=True))
    if reported * n > MAX_REPORTED:
        raise RequestError(
            f"logprobs: up to {reported * n} log-probabilities would be reported; several "
            f"sequences in one request may report {MAX_REPORTED} together: lower max_tokens, n or "
            "the number of alternatives",
            param="logprobs",
        )


def _reported(prompt: int, sampling: SamplingParams) -> int:
    answer = 0 if sampling.logprobs is None else sampling.max_tokens * (sampling.logprobs + 1)
    scored = 0 if sampling.prompt_logprobs is None else prompt * (sampling.prompt_logprobs + 1)
    return answer + scored


def _items(body: CompletionBody) -> list[str | list[int]]:
    """The prompts, as they were given.

    Raises:
        RequestError: there is none, or a router would have to decide for several.
    """
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise RequestError("prompt: must not be empty", param="prompt")
    if isinstance(prompt[0], int):
        return [[item for item in prompt if isinstance(item, int)]]
    if len(prompt) > 1 and body.model.split(":")[0] == "auto" and body.adapters is None:
        raise RequestError(
            "prompt: a router decides for one prompt; send several prompts one by one",
            param="prompt",
        )
    return [item for item in prompt if not isinstance(item, int)]
