"""Text in, token ids out, and back again: chat template, incremental decoding, stop strings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from cluster.errors import RequestError


class TextCodec:
    """The base model's tokenizer.

    Args:
        model_dir: folder with the tokenizer's files.
    """

    def __init__(self, model_dir: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
        self.backend: Tokenizer = self._tokenizer.backend_tokenizer
        self.vocab_size = len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Token ids of a plain prompt, with whatever special tokens the model expects first."""
        return self._ids(text, add_special_tokens=True)

    @property
    def chat_template(self) -> str | None:
        """The base's own."""
        found = self._tokenizer.chat_template
        return found if isinstance(found, str) else None

    def encode_chat(
        self, messages: Sequence[dict[str, str]], template: str | None = None
    ) -> list[int]:
        """Token ids of a conversation, ending where the assistant is to speak.

        ``template`` is used in place of the base's.

        Raises:
            RequestError: the model has no chat template, or the template refuses the messages.
        """
        if not (template or self._tokenizer.chat_template):
            raise RequestError("this model has no chat template: use /v1/completions")
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages),
                add_generation_prompt=True,
                tokenize=False,
                chat_template=template,
            )
        except Exception as error:  # a template is a program; whatever it raises is about the input
            raise RequestError(
                f"the model's chat template refused the messages: {error}", param="messages"
            ) from error
        return self._ids(text, add_special_tokens=False)

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Safe in any thread, and the batch call lets other threads run meanwhile."""
        (encoding,) = self.backend.encode_batch([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        return ids

    def token_text(self, token_id: int) -> str:
        """One token as text, special tokens included; for reports of log-probabilities."""
        return self.backend.decode([token_id], skip_special_tokens=False)

    def prompt_text(self, token_ids: Sequence[int]) -> str:
        """A prompt that was given as token ids, special tokens included."""
        return self.backend.decode(list(token_ids), skip_special_tokens=False)

    def stream(self, stop: Sequence[str], min_tokens: int = 0) -> "TextStream":
        """A decoder for one sequence."""
        return TextStream(self.backend, stop, min_tokens)


class TextStream:
    """Turns one sequence's tokens into text as they come, and ends it at a stop string.

    Text that may still turn out to be the beginning of a stop string is held back, so what has
    been handed out never needs to be taken back. Concatenated over any split of the tokens the
    text is the same.

    Args:
        backend: decodes tokens.
        stop: stop strings; the text ends before the first that is complete.
        min_tokens: a stop string counts only if a later token than this completes it.
    """

    def __init__(self, backend: Tokenizer, stop: Sequence[str], min_tokens: int = 0) -> None:
        self._backend = backend
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop = tuple(stop)
        self._held = ""
        self._exempt_tokens = min_tokens  # still to come
        self._exempt_chars = 0  # at the start of what is held, text of such tokens
        self.stopped = False

    def push(self, token_ids: Sequence[int]) -> str:
        """Text that these tokens release. After a stop string was met: ``stopped``, and no more."""
        if self.stopped:
            return ""
        for token_id in token_ids:
            self._held += self._decoder.step(self._backend, token_id) or ""
            if self._exempt_tokens:
                self._exempt_tokens -= 1
                self._exempt_chars = len(self._held)
            elif self._stop and self._cut():
                return self._release(len(self._held))
        return self._release(len(self._held) - self._longest_stop_prefix())

    def finish(self) -> str:
        """Text held back when the sequence ends without a stop string."""
        return "" if self.stopped else self._release(len(self._held))

    def _cut(self) -> bool:
        found = [
            at
            for text in self._stop
            if (at := self._held.find(text, max(0, self._exempt_chars - len(text) + 1))) >= 0
        ]
        if not found:
            return False
        self._held = self._held[: min(found)]
        self.stopped = True
        return True

    def _longest_stop_prefix(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
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
