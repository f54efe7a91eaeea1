"""Defines the bodies of HTTP requests, in OpenAI's shape plus ``adapters``.

What is served is a field here. A field of OpenAI's or vLLM's API that is not served is a row of the
table in ``unserved.py``; every other field is refused by name.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from deployments.front.http.body_types import (
    ALL_WHOLE,
    FEW,
    WHOLE,
    Body,
    NameText,
    Off,
    ShortText,
    StopText,
)
from deployments.front.http.limits import MAX_PROMPT_IDS, MAX_SEQUENCES
from deployments.front.openai.messages import Message as Message
from deployments.front.openai.messages import Messages
from deployments.front.openai.structured_fields import (
    Alternatives,
    Expression,
    ResponseFormat,
    Schema,
    StructuredOutputs,
)
from deployments.front.openai.template_fields import ReasoningEffort, TemplateKwargs
from deployments.front.openai.unserved import (
    CHAT,
    COMPLETIONS,
    UnservedField,
    check_unserved,
    fields_of,
)
from router_service.routers.text_policy import MAX_HISTORY

MAX_CHOICES = 16
MAX_ROUTING_TURNS = 1 + MAX_HISTORY
MAX_STOP_TOKENS = 1024
MAX_BIASED_TOKENS = 1024
MAX_INTEGER = 2**31 - 1
"""Beyond every vocabulary and context window; what crosses the link has 64 bits."""
TOKEN_ID = re.compile("0|[1-9][0-9]{0,8}")


def _branch_of_stop(given: object) -> str:
    """Return the one branch of the union that is tried, so that errors speak of no other."""
    return "list[str]" if isinstance(given, list) else "str"


def _branch_of_prompt(given: object) -> str:
    """Return the branch as for stop strings; of a list, its first item decides."""
    if not isinstance(given, list):
        return "str"
    first = given[0] if given else ""
    if isinstance(first, str):
        return "list[str]"
    return "list[list]" if isinstance(first, list) else "list[int]"


PROMPTS = Field(min_length=1, max_length=MAX_SEQUENCES, fail_fast=True)
TokenId = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Texts = Annotated[list[str], PROMPTS]
Tokens = Annotated[
    list[TokenId], Field(min_length=1, max_length=MAX_PROMPT_IDS, fail_fast=True), ALL_WHOLE
]
StopTokens = Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS, fail_fast=True), ALL_WHOLE]
TokenLists = Annotated[list[Tokens], PROMPTS]
Prompt = Annotated[
    Annotated[str, Tag("str")]
    | Annotated[Texts, Tag("list[str]")]
    | Annotated[Tokens, Tag("list[int]")]
    | Annotated[TokenLists, Tag("list[list]")],
    Discriminator(_branch_of_prompt),
]
"""A text, its token ids, or a list of either; the first item says which."""
Stop = Annotated[
    Annotated[StopText, Tag("str")] | Annotated[Annotated[list[StopText], FEW], Tag("list[str]")],
    Discriminator(_branch_of_stop),
]


class AdapterTerm(Body):
    """One term of an explicit mixture."""

    name: NameText
    weight: float = 1.0


class StreamOptions(Body):
    """Options of a streamed answer."""

    include_usage: bool | None = None
    include_obfuscation: Off = None
    continuous_usage_stats: Off = None


class GenerationBody(Body):
    """Holds the fields that chat and completions have in common.

    Fields that are not served are let through by the parser and judged by the endpoint's table.
    """

    model_config = ConfigDict(extra="allow")
    unserved: ClassVar[Mapping[str, UnservedField]] = {}

    model: NameText
    adapters: Annotated[list[AdapterTerm], FEW] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_INTEGER), WHOLE] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63), WHOLE] | None = None
    stop: Stop | None = None
    stop_token_ids: StopTokens | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), WHOLE] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: ShortText | None = None
    ignore_eos: bool | None = None
    explain: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: Expression | None = None
    guided_choice: Alternatives | None = None
    guided_grammar: Expression | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_INTEGER), WHOLE] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    logit_bias: Annotated[
        dict[str, Annotated[float, Field(ge=-100, le=100)]] | None,
        Field(max_length=MAX_BIASED_TOKENS),
    ] = None

    @model_validator(mode="after")
    def _check(self) -> "GenerationBody":
        if self.model_extra:
            check_unserved(self.model_extra, self.unserved, type(self).model_fields)
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only allowed when stream is true")
        self._check_structured()
        for token in self.logit_bias or ():
            if not TOKEN_ID.fullmatch(token):
                raise ValueError(f"logit_bias: {token[:40]!r} is not a token id")
        return self

    def _check_structured(self) -> None:
        given = [name for name in STRUCTURED if getattr(self, name) is not None]
        if self.response_format is not None and self.response_format.type == "text":
            given.remove("response_format")
        if len(given) > 1:
            raise ValueError(f"{given[1]}: not together with {given[0]}")
        if given and self.ignore_eos:
            raise ValueError(f"ignore_eos: not together with {given[0]}")
        if given and self.min_tokens:
            raise ValueError(f"min_tokens: not together with {given[0]}")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Return the stop strings as a tuple."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


STRUCTURED = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
)
"""Fields that say what form an answer has; at most one is given."""


def user_turns(messages: Sequence[Message]) -> tuple[str, ...]:
    """Return the last user messages' texts, the oldest first; without any, the last message's."""
    turns = [message.text for message in messages if message.role == "user"]
    return tuple(turns[-MAX_ROUTING_TURNS:]) or (messages[-1].text,)


class ChatBody(GenerationBody):
    """``POST /v1/chat/completions``."""

    unserved = fields_of(CHAT)

    messages: Messages
    max_tokens: Annotated[int, Field(ge=1, le=MAX_INTEGER), WHOLE] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_INTEGER), WHOLE] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_INTEGER), WHOLE] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    reasoning_effort: ReasoningEffort | None = None

    @model_validator(mode="after")
    def _check_chat(self) -> "ChatBody":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: only allowed when logprobs is true")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens: give either it or max_completion_tokens, not both")
        if self.continue_final_message:
            if self.add_generation_prompt:
                raise ValueError(
                    "continue_final_message: not together with add_generation_prompt, "
                    "which begins a new message"
                )
            if self.messages[-1].role != "assistant":
                raise ValueError(
                    "continue_final_message: the last message must be the assistant's, "
                    f"not of role {self.messages[-1].role!r}"
                )
        return self

    @property
    def routing_turns(self) -> tuple[str, ...]:
        """Return what a router reads: the user messages, the last one for itself."""
        return user_turns(self.messages)


class CompletionBody(GenerationBody):
    """``POST /v1/completions``."""

    unserved = fields_of(COMPLETIONS)

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0, le=MAX_INTEGER), WHOLE] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_INTEGER), WHOLE] | None = None
    echo: bool | None = None

    @model_validator(mode="after")
    def _check_completion(self) -> "CompletionBody":
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 tokens are an answer only together with echo")
        return self

    @property
    def texts(self) -> list[str]:
        """Return the prompts that were given as text."""
        given = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        return [item for item in given if isinstance(item, str)]


class RouteBody(Body):
    """``POST /v1/route``: decide only."""

    model: NameText = "auto"
    prompt: str | None = None
    messages: Messages | None = None
    adapters: Annotated[list[AdapterTerm], FEW] | None = None
    explain: bool | None = None

    @model_validator(mode="after")
    def _one_text(self) -> "RouteBody":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("prompt: give either prompt or messages")
        return self

    @property
    def routing_turns(self) -> tuple[str, ...]:
        """Return what a router reads: the prompt, or the user messages as in a chat."""
        return user_turns(self.messages or ()) if self.prompt is None else (self.prompt,)
