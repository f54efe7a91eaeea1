"""Defines the fields of a body that say what form an answer has."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from deployments.front.http.body_types import Body, NameText, Off, ShortText

MAX_ALTERNATIVES = 1024

Expression = Annotated[str, Field(min_length=1)]
Schema = dict[str, Any] | str
"""A JSON schema, or its text."""
Alternatives = Annotated[
    list[Expression], Field(min_length=1, max_length=MAX_ALTERNATIVES, fail_fast=True)
]


class JsonSchema(Body):
    """The schema of a structured answer. It is always followed, ``strict`` or not."""

    name: NameText
    wanted: Annotated[dict[str, Any], Field(alias="schema")]
    description: ShortText | None = None
    strict: bool | None = None


class ResponseFormat(Body):
    """Selects the kind of text that an answer is."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _one_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema: goes with type json_schema, and only with it")
        return self


class StructuredOutputs(Body):
    """vLLM's one field for all of them; exactly one member says what the answer is."""

    wanted_json: Annotated[Schema | None, Field(alias="json")] = None
    regex: Expression | None = None
    choice: Alternatives | None = None
    grammar: Expression | None = None
    json_object: bool | None = None
    disable_fallback: bool | None = None  # there is one engine, so there is no fallback
    disable_any_whitespace: Off = None
    disable_additional_properties: Off = None
    whitespace_pattern: None = None
    structural_tag: None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "StructuredOutputs":
        if len(self.given) != 1:
            found = " and ".join(self.given) or "none"
            raise ValueError(
                "expected exactly one of json, regex, choice, grammar and json_object, "
                f"found {found}"
            )
        return self

    @property
    def given(self) -> list[str]:
        """Return the members that say what the answer is."""
        said = {
            "json": self.wanted_json is not None,
            "regex": self.regex is not None,
            "choice": self.choice is not None,
            "grammar": self.grammar is not None,
            "json_object": bool(self.json_object),
        }
        return [name for name, is_said in said.items() if is_said]
