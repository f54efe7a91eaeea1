"""Turns text into token ids and back: prompts, incremental decoding, stop strings."""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from cluster.errors import RequestError
from deployments.front.text.chat_template import PLAIN, ChatTemplate, TemplateOptions
from deployments.front.text.token_bytes import TokenBytes, TokenPlace, TokenPlaces, offsets_in

OTHER_TEMPLATES = 64
"""Of adapters, kept ready."""


class TextCodec:
    """Wraps the base model's tokenizer.

    Args:
        model_dir: folder with the tokenizer's files.
        special_tokens_in_text: special tokens written in messages are tokens, not text.
    """

    def __init__(self, model_dir: Path, *, special_tokens_in_text: bool = False) -> None:
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
        self.backend: Tokenizer = self._tokenizer.backend_tokenizer
        self.vocab_size = len(self._tokenizer)
        self.vocabulary = TokenBytes(self.backend)
        self._chat = (
            ChatTemplate(self._tokenizer, trusts_text=special_tokens_in_text)
            if self._tokenizer.chat_template
            else None
        )
        self._template_of = lru_cache(OTHER_TEMPLATES)(
            partial(ChatTemplate, self._tokenizer, trusts_text=special_tokens_in_text)
        )

    @property
    def chat_template(self) -> str | None:
        """Return the base's own chat template."""
        found = self._tokenizer.chat_template
        return found if isinstance(found, str) else None

    @property
    def knows_reasoning_effort(self) -> bool:
        """Return whether the chat template reads ``reasoning_effort``."""
        return self._chat is not None and self._chat.knows_reasoning_effort

    def encode(self, text: str) -> list[int]:
        """Return the ids of a plain prompt, with the special tokens that the model expects first.

        Special tokens in it are tokens: a plain prompt is all that its author wants the model to
        see.
        """
        return self._ids(text)

    def encode_chat(
        self, messages: Sequence[dict[str, str]], options: TemplateOptions = PLAIN
    ) -> list[int]:
        """Return the token ids of a conversation; safe in any thread.

        ``options.source`` is used in place of the base's template.

        Raises:
            RequestError: the model has no chat template, or the template refuses the messages.
        """
        chat = self._chat if options.source is None else self._template_of(source=options.source)
        if chat is None:
            raise RequestError("this model has no chat template: use /v1/completions")
        return chat.encode(messages, options)

    def _ids(self, text: str) -> list[int]:
        """Encode by the batch call, which lets other threads run meanwhile; safe in any thread."""
        (encoding,) = self.backend.encode_batch([text])
        ids: list[int] = encoding.ids
        return ids

    def token_text(self, token_id: int, place: TokenPlace | None = None) -> str:
        """Return one token as text, special tokens included; for reports of log-probabilities.

        Bytes that are not a whole character become U+FFFD.
        """
        return self._bytes(token_id, place).decode(errors="replace")

    def token_name(self, token_id: int, place: TokenPlace | None = None) -> str:
        """Return ``token_text``, but with parts of characters written as ``bytes:\\xf0\\x9f``."""
        found = self._bytes(token_id, place)
        try:
            return found.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)

    def token_bytes(self, token_id: int, place: TokenPlace | None = None) -> list[int] | None:
        """Return the bytes that a token adds at its place, or None if it is left out."""
        if place is not None and not place.shown:
            return None
        return list(self._bytes(token_id, place))

    def alternative(self, token_id: int, place: TokenPlace) -> TokenPlace:
        """Return the place that another token would have had."""
        shown = not (place.skips_special and self.vocabulary.is_special(token_id))
        if shown == place.shown:
            return place
        return TokenPlace(place.offset, place.first, shown, place.skips_special)

    def _bytes(self, token_id: int, place: TokenPlace | None) -> bytes:
        return self.vocabulary.of(token_id, first=place is not None and place.first)

    def prompt_text(self, token_ids: Sequence[int]) -> str:
        """Return the text of a prompt given as token ids, special tokens included."""
        return self.backend.decode(list(token_ids), skip_special_tokens=False)

    def prompt_offsets(
        self, text: str, token_ids: Sequence[int], *, is_text: bool
    ) -> tuple[int, ...]:
        """Return the offset of each token of a prompt in its text.

        Args:
            text: as it is shown.
            token_ids: its tokens.
            is_text: the prompt was given as text, so that its tokens were made of it.
        """
        if is_text:
            (encoding,) = self.backend.encode_batch([text])
            return offsets_in(text, encoding.offsets)
        places = TokenPlaces(self.vocabulary, skip_special_tokens=False)
        return tuple(min(places.add(number).offset, len(text)) for number in token_ids)

    def stream(
        self,
        stop: Sequence[str],
        min_tokens: int = 0,
        *,
        skip_special_tokens: bool = True,
        include_stop: bool = False,
    ) -> "TextStream":
        """Return a decoder for one sequence."""
        return TextStream(
            self.backend,
            stop,
            min_tokens,
            skip_special_tokens=skip_special_tokens,
            include_stop=include_stop,
        )

    def places(self, *, skip_special_tokens: bool = True) -> TokenPlaces:
        """Return what locates one sequence's tokens."""
        return TokenPlaces(self.vocabulary, skip_special_tokens=skip_special_tokens)


class TextStream:
    """Turns one sequence's tokens into text as they come, and ends it at a stop string.

    Text that may still turn out to be the beginning of a stop string is held back, so what has
    been handed out never needs to be taken back. Concatenated over any split of the tokens the
    text is the same.

    Args:
        backend: decodes tokens.
        stop: stop strings; the text ends before the first that is complete.
        min_tokens: a stop string counts only if a later token than this completes it.
        skip_special_tokens: special tokens are left out of the text.
        include_stop: the text ends behind what stopped it, a string or a token.
    """

    def __init__(
        self,
        backend: Tokenizer,
        stop: Sequence[str],
        min_tokens: int = 0,
        *,
        skip_special_tokens: bool = True,
        include_stop: bool = False,
    ) -> None:
        self._backend = backend
        self._decoder = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._stop = tuple(stop)
        self._include_stop = include_stop
        self._held = ""
        self._exempt_tokens = min_tokens  # still to come
        self._exempt_chars = 0  # at the start of what is held, text of such tokens
        self.stopped = False

    def push(self, token_ids: Sequence[int], *, ends: bool = False) -> str:
        """Return the text that these tokens release; nothing more once ``stopped``.

        ``ends``: the last one ends the sequence by being a stop token.
        """
        if self.stopped:
            return ""
        if ends and not self._include_stop:
            token_ids = token_ids[:-1]
        if not self._stop:  # nothing is ever held back
            return "".join([self._decoder.step(self._backend, one) or "" for one in token_ids])
        for token_id in token_ids:
            self._held += self._decoder.step(self._backend, token_id) or ""
            if self._exempt_tokens:
                self._exempt_tokens -= 1
                self._exempt_chars = len(self._held)
            elif self._cut():
                return self._release(len(self._held))
        return self._release(len(self._held) - self._longest_stop_prefix())

    def finish(self) -> str:
        """Return the text held back when the sequence ends without a stop string."""
        return "" if self.stopped else self._release(len(self._held))

    def _cut(self) -> bool:
        found = [
            (at, at + len(text))
            for text in self._stop
            if (at := self._held.find(text, max(0, self._exempt_chars - len(text) + 1))) >= 0
        ]
        if not found:
            return False
        start, end = min(found)
        self._held = self._held[: end if self._include_stop else start]
        self.stopped = True
        return True

    def _longest_stop_prefix(self) -> int:
        """Return the length of the longest end of the held text that begins a stop string."""
        longest = 0
        for text in self._stop:
            for size in range(min(len(text) - 1, len(self._held)), longest, -1):
                if text.startswith(self._held[-size:]):
                    longest = size
                    break
        return longest

    def _release(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        self._exempt_chars = max(0, self._exempt_chars - size)
        return text
