"""Schemas of request bodies: what the models say, and the rules between their fields.

A rule that JSON Schema cannot say (the last message's role, ids within the vocabulary, grammars
that compile) is in the field's description.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cluster.config import FrontConfig
from deployments.front.adapter_wire import (
    AddBody,
    AliasBody,
    NameBody,
    PinBody,
    VllmLoadBody,
    VllmUnloadBody,
)
from deployments.front.router_routes import RouterBody
from deployments.front.unserved import UnservedField
from deployments.front.wire import (
    STRUCTURED,
    TOKEN_ID,
    ChatBody,
    CompletionBody,
    RouteBody,
)

REF = "#/components/schemas/{model}"

BODIES: tuple[type[BaseModel], ...] = (
    ChatBody,
    CompletionBody,
    RouteBody,
    AddBody,
    AliasBody,
    NameBody,
    PinBody,
    RouterBody,
    VllmLoadBody,
    VllmUnloadBody,
)

Schema = dict[str, Any]


def body_schemas(limits: FrontConfig) -> dict[str, Schema]:
    """Schemas by name, of all bodies and what they consist of."""
    _, described = models_json_schema(
        [(kind, "validation") for kind in BODIES], by_alias=True, ref_template=REF
    )
    found: dict[str, Schema] = described["$defs"]
    chat, completion = found["ChatBody"], found["CompletionBody"]
    for kind, schema in ((ChatBody, chat), (CompletionBody, completion)):
        _close(schema, kind.unserved)
        schema["allOf"] = [*_structured_rules(), _implies("stream_options", "stream")]
        properties = schema["properties"]
        _within(properties["stop"], "array", maxItems=limits.max_stop_strings)
        properties["logit_bias"]["anyOf"][0]["propertyNames"] = {
            "pattern": f"^({TOKEN_ID.pattern})$"
        }
    _within(chat["properties"]["top_logprobs"], "integer", maximum=limits.max_logprobs)
    _within(completion["properties"]["logprobs"], "integer", maximum=limits.max_logprobs)
    chat["allOf"] += [
        _one_of_two("max_tokens", "max_completion_tokens"),
        _any({"top_logprobs": {"enum": [0, None]}}, {"logprobs": {"const": True}}),
        _any(
            {"continue_final_message": {"enum": [False, None]}},
            {"add_generation_prompt": {"enum": [False, None]}},
        ),
    ]
    completion["allOf"].append(
        _any({"max_tokens": {"not": {"const": 0}}}, {"echo": {"const": True}})
    )
    found["RouteBody"]["oneOf"] = [_only("prompt", "messages"), _only("messages", "prompt")]
    found["SourceBody"]["oneOf"] = [
        _only("folder", "hub", "url"),
        _only("hub", "folder", "url"),
        _only("url", "folder", "hub"),
    ]
    found["ResponseFormat"]["oneOf"] = [
        {
            "properties": {
                "type": {"enum": ["text", "json_object"]},
                "json_schema": {"type": "null"},
            }
        },
        {
            "properties": {
                "type": {"const": "json_schema"},
                "json_schema": {"$ref": REF.format(model="JsonSchema")},
            },
            "required": ["json_schema"],
        },
    ]
    found["StructuredOutputs"]["oneOf"] = _exactly_one_member()
    return found


def _close(schema: Schema, unserved: Mapping[str, UnservedField]) -> None:
    """Write the table's rows into the properties, and allow no others."""
    schema["additionalProperties"] = False
    for name, field in unserved.items():
        schema["properties"][name] = {
            **field.json_schema,
            "description": f"Not served; accepted where it changes nothing. Else {field.refusal}.",
        }


def _structured_rules() -> list[Schema]:
    """At most one field gives the answer its form; it does not go with two others."""
    free_text = {"anyOf": [{"type": "null"}, {"properties": {"type": {"const": "text"}}}]}
    off: Schema = {name: {"type": "null"} for name in STRUCTURED}
    off["response_format"] = free_text
    variants = [{"properties": off}]
    for name in STRUCTURED:
        rest = {other: schema for other, schema in off.items() if other != name}
        rest |= {"ignore_eos": {"enum": [False, None]}, "min_tokens": {"enum": [0, None]}}
        variants.append({"properties": rest})
    return [{"anyOf": variants}]


def _implies(field: str, switch: str) -> Schema:
    return _any({field: {"type": "null"}}, {switch: {"const": True}})


def _any(off: Schema, on: Schema) -> Schema:
    """Either a field is off, which it is where it is left out, or another one has a value."""
    (name, wanted), *_ = on.items()
    required = [name] if "const" in wanted else []
    return {"anyOf": [{"properties": off}, {"properties": on, "required": required}]}


def _one_of_two(first: str, second: str) -> Schema:
    return {"anyOf": [{"properties": {name: {"type": "null"}}} for name in (first, second)]}


def _only(given: str, *others: str) -> Schema:
    properties: Schema = {given: {"not": {"type": "null"}}}
    properties |= {other: {"type": "null"} for other in others}
    return {"properties": properties, "required": [given]}


def _exactly_one_member() -> list[Schema]:
    members = ("json", "regex", "choice", "grammar")
    off: Schema = {name: {"type": "null"} for name in members}
    off["json_object"] = {"enum": [False, None]}
    found = []
    for name in off:
        wanted = {"const": True} if name == "json_object" else {"not": {"type": "null"}}
        found.append({"properties": {**off, name: wanted}, "required": [name]})
    return found


def _within(schema: Schema, kind: str, **limits: int) -> None:
    """Put limits on that branch of a schema which is of this type."""
    branches = schema.get("anyOf", [schema])
    for branch in branches:
        if branch.get("type") == kind:
            branch.update(limits)
