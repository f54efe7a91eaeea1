"""Turns prompts into token ids in bounded time: long ones off the event loop."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import TypeVar

from cluster.domain.ids import TenantId
from deployments.front.entry.heavy import HeavyWork
from deployments.front.text.prompt_checks import check_prompt, too_long
from deployments.front.text.prompt_types import Conversation, PlainPrompts, Prompts
from deployments.front.text.text_stream import TextCodec

T = TypeVar("T")

HERE_CHARS = 16_384
"""Characters that are tokenised on the event loop: a few milliseconds."""
HERE_ITEMS = 256
"""Messages or prompts; a chat template takes some microseconds for each."""
HERE_IDS = 16_384
SURE_BYTES = 16
"""Bytes for each token of the context up to which a text is tokenised at once; a longer one is
tokenised in pieces first, so that what cannot fit is never tokenised as a whole."""
PIECE_CHARS = 64 * 1024
CUT_TOKENS = 16
"""Tokens by which cutting a text may change their number."""


class PromptReader:
    """Tokenises for one front.

    Args:
        codec: the base model's tokenizer.
        work: runs the tokenising of long prompts.
    """

    def __init__(self, codec: TextCodec, work: HeavyWork) -> None:
        self._codec = codec
        self._work = work
        self._longest_token = max(map(len, codec.backend.get_vocab()), default=1)

    async def read(
        self,
        tenant: TenantId,
        prompt: Conversation | PlainPrompts,
        context: int,
        template: str | None = None,
    ) -> Prompts:
        """Tokenise prompts that are to be continued.

        Args:
            tenant: who asks.
            prompt: a conversation, or prompts as they are.
            context: the longest sequence, in tokens.
            template: a conversation's chat template, brought by an adapter; None is the base's.

        Raises:
            PromptTooLong: a prompt leaves no room for an answer.
            RequestError: the chat template refuses the messages, or token ids do not exist.
        """
        if isinstance(prompt, Conversation):
            return await self._read_conversation(tenant, prompt, context, template)
        return await self._read_plain(tenant, prompt, context, is_continued=True)

    async def read_to_route(
        self,
        tenant: TenantId,
        prompt: Conversation | PlainPrompts,
        context: int,
        template: str | None = None,
    ) -> Prompts:
        """Tokenise a prompt that is only decided for; a plain one may be empty.

        The arguments and errors are those of ``read``.
        """
        if isinstance(prompt, Conversation):
            return await self._read_conversation(tenant, prompt, context, template)
        return await self._read_plain(tenant, prompt, context, is_continued=False)

    async def _read_plain(
        self, tenant: TenantId, prompt: PlainPrompts, context: int, *, is_continued: bool
    ) -> Prompts:
        def encode() -> Prompts:
            prompts = tuple(self._encode(item, context) for item in prompt.items)
            if is_continued:
                for ids in prompts:
                    check_prompt(ids, context, self._codec.vocab_size)
            first = prompt.items[0]
            if not isinstance(first, str):
                first = self._codec.backend.decode(list(first))
            return Prompts(prompts, (first,))

        characters = sum(map(len, prompt.texts))
        tokens = sum(len(item) for item in prompt.items if not isinstance(item, str))
        items = max(len(prompt.texts), tokens * HERE_ITEMS // HERE_IDS)
        return await self._run(tenant, characters, items, encode)

    async def _read_conversation(
        self, tenant: TenantId, prompt: Conversation, context: int, template: str | None
    ) -> Prompts:
        options = dataclasses.replace(prompt.options, source=template)

        def encode() -> Prompts:
            texts = [message["content"] for message in prompt.messages]
            self._check_length(texts, context, "messages")
            ids = self._codec.encode_chat([dict(one) for one in prompt.messages], options)
            check_prompt(ids, context, self._codec.vocab_size)
            return Prompts((tuple(ids),), prompt.turns)

        if len(prompt.messages) >= context:  # each is at least one token
            raise too_long(context, "messages")
        if template is not None:  # a stranger's program
            return await self._work.run(tenant, encode)
        return await self._run(tenant, prompt.characters, prompt.parts, encode)

    async def _run(self, tenant: TenantId, characters: int, items: int, work: Callable[[], T]) -> T:
        if characters <= HERE_CHARS and items <= HERE_ITEMS:
            return work()
        return await self._work.run(tenant, work)

    def _encode(self, item: str | tuple[int, ...], context: int) -> tuple[int, ...]:
        if not isinstance(item, str):
            return item
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
