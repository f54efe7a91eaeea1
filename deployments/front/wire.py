"""The bodies of HTTP requests, in OpenAI's shape plus ``adapters``.

Unknown fields are refused by name. Fields of OpenAI's API that this server does not implement are
accepted only at the value that means "off".
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.front.limits import (
    MAX_LIST_ITEMS,
    MAX_MESSAGES,
    MAX_NAME_CHARS,
    MAX_PARTS,
    MAX_PROMPT_IDS,
    MAX_SEQUENCES,
    MAX_STOP_CHARS,
    MAX_TEXT_CHARS,
)

MAX_CHOICES = 16
MAX_STOP_TOKENS = 1024
MAX_BIASED_TOKENS = 1024
TOKEN_ID = re.compile("0|[1-9][0-9]{0,8}")

NameText = Annotated[str, Field(max_length=MAX_NAME_CHARS)]
ShortText = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
StopText = Annotated[str, Field(max_length=MAX_STOP_CHARS)]
PromptIds = Annotated[
    list[Annotated[int, Field(ge=0)]], Field(max_length=MAX_PROMPT_IDS, fail_fast=True)
]
FEW = Field(max_length=MAX_LIST_ITEMS, fail_fast=True)
PROMPTS = Field(max_length=MAX_SEQUENCES, fail_fast=True)


class Body(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class AdapterTerm(Body):
    """One term of an explicit mixture."""

    name: NameText
    weight: float = 1.0


class StreamOptions(Body):
    """Options of a streamed answer."""

    include_usage: bool = False


class JsonSchema(Body):
    """The schema of a structured answer. It is always followed, ``strict`` or not."""

    name: NameText
    wanted: Annotated[dict[str, Any], Field(alias="schema")]
    description: ShortText | None = None
    strict: bool | None = None


class ResponseFormat(Body):
    """What kind of text an answer is."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _one_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema: goes with type json_schema, and only with it")
        return self


class GenerationBody(Body):
    """What chat and completions have in common."""

    model: NameText
    adapters: Annotated[list[AdapterTerm], FEW] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopText | Annotated[list[StopText], FEW] | None = None
    stop_token_ids: Annotated[
        list[Annotated[int, Field(ge=0)]] | None,
        Field(max_length=MAX_STOP_TOKENS, fail_fast=True),
    ] = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: ShortText | None = None
    ignore_eos: bool = False
    explain: bool = False
    response_format: ResponseFormat | None = None
    guided_json: dict[str, Any] | None = None
    guided_regex: Annotated[str, Field(min_length=1)] | None = None
    guided_grammar: Annotated[str, Field(min_length=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    logit_bias: Annotated[
        dict[str, Annotated[float, Field(ge=-100, le=100)]] | None,
        Field(max_length=MAX_BIASED_TOKENS),
    ] = None

    @model_validator(mode="after")
    def _check(self) -> "GenerationBody":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only allowed when stream is true")
        self._check_structured()
        for token in self.logit_bias or ():
            if not TOKEN_ID.fullmatch(token):
                raise ValueError(f"logit_bias: {token[:40]!r} is not a token id")
        return self

    def _check_structured(self) -> None:
        fields = ("response_format", "guided_json", "guided_regex", "guided_grammar")
        given = [name for name in fields if getattr(self, name) is not None]
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
        """The stop strings as a tuple."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class TextPart(Body):
    """A text part of a message's content."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True)] | None = (
        None
    )
    name: NameText | None = None

    @property
    def text(self) -> str:
        """The content as one string."""
        if self.content is None:
            return ""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)

    def for_template(self) -> dict[str, str]:
        """As chat templates take it; ``developer`` is today's name of ``system``."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.text}


class ChatBody(GenerationBody):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    tools: Annotated[list[Any], Field(max_length=0, fail_fast=True)] | None = None

    @model_validator(mode="after")
    def _check_chat(self) -> "ChatBody":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only allowed when logprobs is true")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens: give either it or max_completion_tokens, not both")
        return self

    @property
    def routing_text(self) -> str:
        """What a router reads: the last user message."""
        for message in reversed(self.messages):
            if message.role == "user":
                return message.text
        return self.messages[-1].text


class CompletionBody(GenerationBody):
    """``POST /v1/completions``."""

    prompt: str | Annotated[list[str], PROMPTS] | PromptIds | Annotated[list[PromptIds], PROMPTS]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0)] | None = None
    echo: bool | None = None
    suffix: Literal[""] | None = None
    best_of: Literal[1] | None = None

    @model_validator(mode="after")
    def _check_completion(self) -> "CompletionBody":
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 tokens are an answer only together with echo")
        if self.num_prompts * (self.n or 1) > MAX_SEQUENCES:
            raise ValueError(f"n: n times the prompts must be at most {MAX_SEQUENCES}")
        return self

    @property
    def num_prompts(self) -> int:
        """How many there are; one may be given as a text or as a list of ids."""
        if isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int)):
            return 1
        return len(self.prompt)

    @property
    def texts(self) -> list[str]:
        """The prompts that were given as text."""
        given = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        return [item for item in given if isinstance(item, str)]


class RouteBody(Body):
    """``POST /v1/route``: decide only."""

    model: NameText = "auto"
    prompt: str | None = None
    messages: (
        Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
        | None
    ) = None
    adapters: Annotated[list[AdapterTerm], FEW] | None = None
    explain: bool = False

    @model_validator(mode="after")
    def _one_text(self) -> "RouteBody":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("prompt: give either prompt or messages")
        return self

    @property
    def routing_text(self) -> str:
        """What a router reads."""
        if self.prompt is not None:
            return self.prompt
        assert self.messages is not None
        for message in reversed(self.messages):
            if message.role == "user":
                return message.text
        return self.messages[-1].text
