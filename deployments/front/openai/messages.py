"""Defines a conversation's messages: what a client may send, and what of it the model reads.

A client sends back the assistant's message as it came, with whatever members its library keeps
there. So a member that is not known changes nothing, and only what would have to be read to
answer rightly is refused.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

from deployments.front.http.body_types import NameText
from deployments.front.http.limits import MAX_MESSAGES, MAX_PARTS

MAX_SHOWN = 40


def _served_part(kind: str) -> str:
    if kind not in ("text", "refusal"):
        shown = repr(kind[:MAX_SHOWN])
        raise ValueError(f"{shown} is not served: this model reads text, so send parts of text")
    return kind


class ContentPart(BaseModel):
    """A part of a message's content: text, or the text of a refusal that is sent back."""

    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        json_schema_extra={
            "anyOf": [
                {
                    "properties": {"type": {"const": kind}, kind: {"type": "string"}},
                    "required": [kind],
                }
                for kind in ("text", "refusal")
            ]
        },
    )

    type: Annotated[
        str,
        AfterValidator(_served_part),
        WithJsonSchema({"type": "string", "enum": ["text", "refusal"]}),
    ]
    text: str | None = None
    refusal: str | None = None

    @model_validator(mode="after")
    def _has_its_text(self) -> "ContentPart":
        if (self.text if self.type == "text" else self.refusal) is None:
            raise ValueError(f"expected the member {self.type!r} in a part of this type")
        return self

    @property
    def read(self) -> str:
        """Return what the model reads of it."""
        return (self.text if self.type == "text" else self.refusal) or ""


def _kind_of_content(value: Any) -> str:
    return "list[part]" if isinstance(value, list) else "str"


Content = Annotated[
    Annotated[str, Tag("str")]
    | Annotated[
        Annotated[list[ContentPart], Field(max_length=MAX_PARTS, fail_fast=True)],
        Tag("list[part]"),
    ],
    Discriminator(_kind_of_content),
]
"""One branch is tried, so an error speaks of that one only."""


def _no_calls(value: Any) -> None:
    if value is not None and value != []:
        raise ValueError("tools are not served: leave it out, or send null")


def _no_audio(value: Any) -> None:
    if value is not None:
        raise ValueError("audio is not served: leave it out, or send null")


class Message(BaseModel):
    """One message. Members that are not listed here are accepted and change nothing."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None
    name: NameText | None = None
    refusal: str | None = None
    tool_calls: Annotated[
        Any,
        AfterValidator(_no_calls),
        WithJsonSchema({"anyOf": [{"type": "array", "maxItems": 0}, {"type": "null"}]}),
    ] = None
    function_call: Annotated[Any, AfterValidator(_no_calls), WithJsonSchema({"type": "null"})] = (
        None
    )
    audio: Annotated[Any, AfterValidator(_no_audio), WithJsonSchema({"type": "null"})] = None

    @property
    def text(self) -> str:
        """Return the content as one string; of an assistant that refused, its refusal."""
        if self.content is None:
            return self.refusal or ""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.read for part in self.content)

    def for_template(self) -> dict[str, str]:
        """Return it as chat templates take it; ``developer`` is today's name of ``system``."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.text}


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
