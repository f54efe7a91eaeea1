"""The bodies of HTTP requests, in OpenAI's shape plus ``adapters``.

Unknown fields are refused by name. Fields of OpenAI's API that this server does not implement are
accepted only at the value that means "off".
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from router_service.routers.text_policy import MAX_HISTORY

MAX_CHOICES = 16
MAX_ROUTING_TURNS = 1 + MAX_HISTORY
MAX_STOP_TOKENS = 1024
MAX_BIASED_TOKENS = 1024
TOKEN_ID = re.compile("0|[1-9][0-9]{0,8}")


class Body(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class AdapterTerm(Body):
    """One term of an explicit mixture."""

    name: str
    weight: float = 1.0


class StreamOptions(Body):
    """Options of a streamed answer."""

    include_usage: bool = False


class JsonSchema(Body):
    """The schema of a structured answer. It is always followed, ``strict`` or not."""

    name: str
    wanted: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
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

    model: str
    adapters: list[AdapterTerm] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: Annotated[
        list[Annotated[int, Field(ge=0)]] | None, Field(max_length=MAX_STOP_TOKENS)
    ] = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
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
    content: str | list[TextPart] | None = None
    name: str | None = None

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


def user_turns(messages: Sequence[Message]) -> tuple[str, ...]:
    """Texts of the last user messages, the oldest first; without any, the last message's."""
    turns = [message.text for message in messages if message.role == "user"]
    return tuple(turns[-MAX_ROUTING_TURNS:]) or (messages[-1].text,)


class ChatBody(GenerationBody):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _check_chat(self) -> "ChatBody":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only allowed when logprobs is true")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens: give either it or max_completion_tokens, not both")
        return self

    @property
    def routing_turns(self) -> tuple[str, ...]:
        """What a router reads: the user messages, the last one for itself."""
        return user_turns(self.messages)


class CompletionBody(GenerationBody):
    """``POST /v1/completions``."""

    prompt: str | list[str] | list[Annotated[int, Field(ge=0)]] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0)] | None = None
    echo: bool | None = None
    suffix: Literal[""] | None = None
    best_of: Literal[1] | None = None

    @model_validator(mode="after")
    def _check_completion(self) -> "CompletionBody":
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 tokens are an answer only together with echo")
        return self

    @property
    def texts(self) -> list[str]:
        """The prompts that were given as text."""
        given = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        return [item for item in given if isinstance(item, str)]


class RouteBody(Body):
    """``POST /v1/route``: decide only."""

    model: str = "auto"
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    adapters: list[AdapterTerm] | None = None
    explain: bool = False

    @model_validator(mode="after")
    def _one_text(self) -> "RouteBody":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("prompt: give either prompt or messages")
        return self

    @property
    def routing_turns(self) -> tuple[str, ...]:
        """What a router reads: the prompt, or the user messages as in a chat."""
        return user_turns(self.messages or ()) if self.prompt is None else (self.prompt,)
