"""Turns conversations into token ids with a chat template."""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from cluster.errors import RequestError
from deployments.front.text.written_tokens import WrittenTokens

MAX_PROBLEM_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class TemplateOptions:
    """Says how a conversation is rendered."""

    add_generation_prompt: bool = True  # ends where the assistant is to speak
    continue_final_message: bool = False  # ends within the last message
    reasoning_effort: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)  # what the template may read besides
    source: str | None = None  # a template that an adapter brings; None: the base's


PLAIN = TemplateOptions()


class ChatTemplate:
    """Applies one chat template with a tokenizer. Safe in any thread.

    Args:
        tokenizer: of transformers.
        trusts_text: special tokens in messages are tokens, not text.
        source: the template; None is the tokenizer's own.
    """

    def __init__(self, tokenizer: Any, *, trusts_text: bool, source: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._source: str = tokenizer.get_chat_template(source)
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self.knows_reasoning_effort = re.search(r"\breasoning_effort\b", self._source) is not None
        self._written = (
            None
            if trusts_text
            else WrittenTokens(self._backend, self._source, secrets.token_hex(8))
        )

    def encode(self, messages: Sequence[dict[str, str]], options: TemplateOptions) -> list[int]:
        """Return the token ids of a conversation.

        Raises:
            RequestError: the template refuses the messages, or does not know what is asked of it.
        """
        variables = dict(options.variables)
        if options.reasoning_effort is not None:
            if not self.knows_reasoning_effort:
                raise RequestError(
                    "reasoning_effort: this model's chat template does not know it: leave it out",
                    param="reasoning_effort",
                )
            variables["reasoning_effort"] = options.reasoning_effort
        marked = None if self._written is None else self._written.marked(messages, variables)
        if self._written is None or marked is None:
            return self._ids(self._render(messages, variables, options))
        rendered = self._render(marked.messages, marked.variables, options, marked.mark)
        return self._written.encode(rendered, marked.mark)

    def _render(
        self,
        messages: Sequence[dict[str, str]],
        variables: dict[str, Any],
        options: TemplateOptions,
        mark: str = "",
    ) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages),
                chat_template=self._source,
                add_generation_prompt=options.add_generation_prompt,
                continue_final_message=options.continue_final_message,
                tokenize=False,
                **variables,
            )
        except Exception as error:  # a template is a program; whatever it raises is about the input
            reason = str(error).replace(mark, "") if mark else str(error)
            raise RequestError(
                "the model's chat template refused the messages: "
                f"{reason[:MAX_PROBLEM_CHARACTERS]}",
                param="messages",
            ) from error
        return text

    def _ids(self, text: str) -> list[int]:
        """Encode by the batch call, which lets other threads run meanwhile."""
        (encoding,) = self._backend.encode_batch([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids
