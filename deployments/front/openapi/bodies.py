"""Schemas of request bodies: what the models say, and the rules between their fields.

A rule that JSON Schema cannot say (the last message's role, ids within the vocabulary, grammars
that compile) is in the field's description.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cluster.config import FrontConfig
from deployments.front.admin.adapter_wire import (
    AddBody,
    AliasBody,
    NameBody,
    PinBody,
    VllmLoadBody,
    VllmUnloadBody,
)
from deployments.front.admin.policy_routes import PolicyBody
from deployments.front.admin.router_routes import RouterBody
from deployments.front.openai.unserved import UnservedField
from deployments.front.openai.wire import (
    STRUCTURED,
    TOKEN_ID,
    ChatBody,
    CompletionBody,
    RouteBody,
)
from router_service.routers.base import MAX_WEIGHT

REF = "#/components/schemas/{model}"

BODIES: tuple[type[BaseModel], ...] = (
    ChatBody,
    CompletionBody,
    RouteBody,
    AddBody,
    AliasBody,
    NameBody,
    PinBody,
    PolicyBody,
    RouterBody,
    VllmLoadBody,
    VllmUnloadBody,
)

Schema = dict[str, Any]

NOT_NULL: Schema = {"not": {"type": "null"}}
OBJECT: Schema = {"type": "object"}
ARRAY: Schema = {"type": "array"}
INTEGER: Schema = {"type": "integer"}
POSITIVE: Schema = {"type": "integer", "minimum": 1}
TRUE: Schema = {"const": True}


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Holds the facts that a server's schemas depend on, apart from the code.

    Args:
        limits: bounds that the front's configuration sets.
        mixed: values of ``model`` that a mixture may go with.
        vocab_size: of the base model; token ids are below it.
        knows_reasoning_effort: the base model's chat template reads it.
        takes_empty_prompt: the tokenizer puts a token before every prompt.
    """

    limits: FrontConfig
    mixed: Sequence[str]
    vocab_size: int
    knows_reasoning_effort: bool = False
    takes_empty_prompt: bool = False


def body_schemas(facts: ServerFacts) -> dict[str, Schema]:
    """Return the schemas of all bodies and of what they consist of, by name."""
    limits = facts.limits
    _, described = models_json_schema(
        [(kind, "validation") for kind in BODIES], by_alias=True, ref_template=REF
    )
    found: dict[str, Schema] = _simplified(described["$defs"])
    chat, completion, route = found["ChatBody"], found["CompletionBody"], found["RouteBody"]
    for kind, schema in ((ChatBody, chat), (CompletionBody, completion)):
        _close(schema, kind.unserved)
        properties = schema["properties"]
        _within(properties["stop"], "array", maxItems=limits.max_stop_strings)
        properties["logit_bias"]["propertyNames"] = {"pattern": f"^({TOKEN_ID.pattern})$"}
    if not facts.knows_reasoning_effort:
        chat["properties"]["reasoning_effort"] = {"type": "null"}
    text, texts, *lists = completion["properties"]["prompt"]["oneOf"]
    if not facts.takes_empty_prompt:
        text["minLength"] = texts["items"]["minLength"] = 1
    for token_ids in lists:
        items = token_ids["items"]
        _within(items.get("items", items), "integer", maximum=facts.vocab_size - 1)
    _within(chat["properties"]["top_logprobs"], "integer", maximum=limits.max_logprobs)
    _within(completion["properties"]["logprobs"], "integer", maximum=limits.max_logprobs)
    _within(
        found["AdapterTerm"]["properties"]["weight"],
        "number",
        minimum=-MAX_WEIGHT,
        maximum=MAX_WEIGHT,
    )
    mixture = _both(adapters=ARRAY, model={"not": {"enum": list(facts.mixed)}})
    chat["not"] = {
        "anyOf": [
            *_structured_contradictions(),
            *_lacking("stream_options", OBJECT, "stream"),
            _both(max_tokens=INTEGER, max_completion_tokens=INTEGER),
            _both(continue_final_message=TRUE, add_generation_prompt=TRUE),
            *_lacking("top_logprobs", POSITIVE, "logprobs"),
            mixture,
        ]
    }
    completion["not"] = {
        "anyOf": [
            *_structured_contradictions(),
            *_lacking("stream_options", OBJECT, "stream"),
            *_lacking("max_tokens", {"const": 0}, "echo"),
            mixture,
        ]
    }
    route["not"] = mixture
    for name in ("AddBody", "AliasBody"):
        found[name]["not"] = _both(tenant=NOT_NULL, grants={**ARRAY, "minItems": 1})
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


def _simplified(schema: Any) -> Any:
    """Shorten a schema: a type or null becomes one list; titles and null defaults are left out."""
    if isinstance(schema, list):
        return [_simplified(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        key: _simplified(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
        and not (key == "default" and value is None)
    }
    branches = found.get("anyOf", [])
    if len(branches) == 2 and branches[1] == {"type": "null"}:
        kind = branches[0].get("type")
        if isinstance(kind, str) and not branches[0].keys() & {"const", "enum"}:
            del found["anyOf"]
            found |= {**branches[0], "type": [kind, "null"]}
    return found


def _close(schema: Schema, unserved: Mapping[str, UnservedField]) -> None:
    """Write the table's rows into the properties, and allow no others."""
    schema["additionalProperties"] = False
    for name, field in unserved.items():
        schema["properties"][name] = {
            **field.json_schema,
            "description": f"Not served; accepted where it changes nothing. Else {field.refusal}.",
        }


def _structured_contradictions() -> list[Schema]:
    """Return schemas of bodies in which two fields contradict each other.

    Either both give the answer its form, or one does and the other does not go with it.
    """
    forms: dict[str, Schema] = dict.fromkeys(STRUCTURED, NOT_NULL)
    forms["response_format"] = {
        **OBJECT,
        "properties": {"type": {"enum": ["json_object", "json_schema"]}},
    }
    two = [_both(**{a: forms[a], b: forms[b]}) for a, b in combinations(forms, 2)]
    endless = [_both(**{name: form, "ignore_eos": TRUE}) for name, form in forms.items()]
    longer = [_both(**{name: form, "min_tokens": POSITIVE}) for name, form in forms.items()]
    return [*two, *endless, *longer]


def _both(**fields: Schema) -> Schema:
    """Return a schema that requires all of these fields, each as given."""
    return {"properties": fields, "required": list(fields)}


def _lacking(field: str, given: Schema, switch: str) -> list[Schema]:
    """Return schemas of a field without the switch that it needs, which is off or left out."""
    return [
        _both(**{field: given, switch: {"enum": [False, None]}}),
        {"properties": {field: given, switch: False}, "required": [field]},
    ]


def _only(given: str, *others: str) -> Schema:
    properties: Schema = {given: NOT_NULL}
    properties |= {other: {"type": "null"} for other in others}
    return {"properties": properties, "required": [given]}


def _exactly_one_member() -> list[Schema]:
    members = ("json", "regex", "choice", "grammar")
    off: Schema = {name: {"type": "null"} for name in members}
    off["json_object"] = {"enum": [False, None]}
    found = []
    for name in off:
        wanted = {"const": True} if name == "json_object" else NOT_NULL
        found.append({"properties": {**off, name: wanted}, "required": [name]})
    return found


def _within(schema: Schema, kind: str, **limits: float) -> None:
    """Put limits on that branch of a schema which is of this type."""
    for branch in (schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())):
        named = branch.get("type", ())
        if kind == named or kind in named:
            branch.update(limits)
        elif branch is not schema:
            _within(branch, kind, **limits)
