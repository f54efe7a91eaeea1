"""The OpenAPI document: valid, complete, and true of the bodies that the server takes."""

from types import SimpleNamespace
from typing import Any, cast

import jsonschema
import orjson
import pytest
from fastapi.routing import APIRoute
from pydantic import ValidationError

from cluster.config import FrontConfig
from deployments.front.front_context import FrontContext
from deployments.front.http_app import build_http_app
from deployments.front.openai.unserved import BOTH, CHAT, TABLE
from deployments.front.openai.wire import ChatBody, CompletionBody, RouteBody
from deployments.front.openapi.bodies import ServerFacts
from deployments.front.openapi.document import openapi_document
from deployments.front.openapi.operations import OPERATIONS

DOCUMENT = openapi_document(
    "1", ServerFacts(FrontConfig(), ("org/base", "base", "auto"), 100, knows_reasoning_effort=True)
)
SCHEMAS = DOCUMENT["components"]["schemas"]
BODIES = {"ChatBody": ChatBody, "CompletionBody": CompletionBody, "RouteBody": RouteBody}


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for item in value.values() for ref in references(item)]
    if isinstance(value, list):
        return [ref for item in value for ref in references(item)]
    return []


def validator(name: str) -> jsonschema.Draft202012Validator:
    """Return a validator of one schema, with the others within reach."""
    defs = orjson.loads(orjson.dumps(SCHEMAS).replace(b"#/components/schemas/", b"#/$defs/"))
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": defs})


VALIDATORS = {name: validator(name) for name in BODIES}


def test_every_reference_resolves() -> None:
    found = references(DOCUMENT)
    assert len(found) > 20
    for ref in found:
        place: Any = DOCUMENT
        for part in ref.removeprefix("#/").split("/"):
            place = place[part]
        assert isinstance(place, dict)


def test_every_schema_is_one() -> None:
    for name in SCHEMAS:
        jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
        validator(name).is_valid({})
    assert DOCUMENT["openapi"] == "3.1.0"
    ids = [one["operationId"] for path in DOCUMENT["paths"].values() for one in path.values()]
    assert len(set(ids)) == len(ids)
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            names = [one["name"] for one in operation["parameters"] if one["in"] == "path"]
            assert all(f"{{{name}}}" in path for name in names)
            assert path.count("{") == len(names)
            assert set(operation["responses"]) >= {"405", "500"}


def test_every_route_is_described_and_no_other() -> None:
    context = SimpleNamespace(
        version="1",
        started_at=0,
        directory=None,
        door=None,
        clock=None,
        config=FrontConfig(),
        service=SimpleNamespace(),
        admin=SimpleNamespace(
            adapter_admin=None,
            router_admin=None,
            policies=None,
            adapters=SimpleNamespace(registry=None),
        ),
    )
    app = build_http_app(cast(FrontContext, context))
    served = {
        (method.lower(), route.path.replace(":path}", "}"))
        for route in _routes(app.routes)
        for method in route.methods
    }
    assert served == {(one.method, one.path) for one in OPERATIONS}


def _routes(routes: Any, prefix: str = "") -> list[APIRoute]:
    found: list[APIRoute] = []
    for route in routes:
        if isinstance(route, APIRoute):
            found.append(route)
        elif hasattr(route, "original_router"):
            found += _routes(route.original_router.routes)
    return found


CHAT_FIELDS: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
PROMPT_FIELDS: dict[str, Any] = {"model": "m", "prompt": "a"}
GIVEN: list[tuple[str, dict[str, Any]]] = [
    *(("ChatBody", {**CHAT_FIELDS, **fields}) for fields in (
        {}, {"stream_options": {}}, {"stream": True, "stream_options": {"include_usage": True}},
        {"stream": False, "stream_options": {}}, {"stream_options": None},
        {"guided_regex": "a"}, {"guided_regex": "a", "guided_json": {}}, {"guided_regex": ""},
        {"guided_regex": "a", "response_format": {"type": "text"}},
        {"guided_regex": "a", "response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema"}}, {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
        {"response_format": {"type": "text", "json_schema": {"name": "a", "schema": {}}}},
        {"guided_choice": ["a"], "ignore_eos": True}, {"guided_choice": ["a"], "min_tokens": 1},
        {"guided_choice": ["a"], "ignore_eos": False, "min_tokens": 0}, {"guided_choice": []},
        {"structured_outputs": {}}, {"structured_outputs": {"regex": "a"}},
        {"structured_outputs": {"regex": "a", "json": {}}},
        {"structured_outputs": {"json_object": True}},
        {"structured_outputs": {"json_object": False}},
        {"structured_outputs": {"regex": "a", "disable_any_whitespace": True}},
        {"top_logprobs": 1}, {"top_logprobs": 0}, {"top_logprobs": 1, "logprobs": True},
        {"top_logprobs": 1, "logprobs": False},
        {"max_tokens": 1, "max_completion_tokens": 1}, {"max_tokens": 1}, {"max_tokens": 0},
        {"continue_final_message": True, "add_generation_prompt": True},
        {"n": 17}, {"n": 0}, {"n": 2.0}, {"n": "2"}, {"n": True}, {"stream": 1}, {"stream": 0},
        {"temperature": "1"}, {"temperature": 3}, {"temperature": True}, {"top_k": -2},
        {"top_k": 2**40}, {"seed": 2**63}, {"stop": []}, {"stop": [""]}, {"stop": 5},
        {"logit_bias": {"a": 1}}, {"logit_bias": {"1": 1}}, {"logit_bias": {"01": 1}},
        {"logit_bias": {"1": 101}}, {"unknown": None}, {"temprature": 1},
        {"messages": []}, {"messages": [{"role": "tool", "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [], "refusal": None, "x": 1}]},
        {"chat_template_kwargs": {"a": 1}}, {"chat_template_kwargs": {"tools": []}},
        {"chat_template_kwargs": {"a b": 1}}, {"chat_template_kwargs": {"a_token": 1}},
        {"reasoning_effort": "low"}, {"reasoning_effort": "much"},
        {"adapters": [{"name": "a", "weight": 1}], "model": "auto"},
        {"adapters": [{"name": "a", "wait": 1}], "model": "auto"},
    )),
    *(("CompletionBody", {**PROMPT_FIELDS, **fields}) for fields in (
        {}, {"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"prompt": [[1], [2]]}, {"prompt": []},
        {"prompt": [[]]}, {"prompt": [1.0, 2]}, {"prompt": [1.5]}, {"prompt": [True]},
        {"stop_token_ids": [1.0]}, {"stop_token_ids": [True, 1.0]}, {"stop_token_ids": [1.5]},
        {"prompt": ["a", 1]}, {"prompt": [-1]},
        {"prompt": None}, {"prompt": {}}, {"max_tokens": 0}, {"max_tokens": 0, "echo": True},
        {"max_tokens": 0, "echo": False}, {"logprobs": True}, {"logprobs": 0}, {"echo": 1},
        {"reasoning_effort": None}, {"reasoning_effort": "low"},
    )),
    *(("RouteBody", fields) for fields in (
        {"prompt": "a"}, {"messages": CHAT_FIELDS["messages"]}, {}, {"prompt": None},
        {"prompt": "a", "messages": CHAT_FIELDS["messages"]}, {"prompt": "a", "messages": None},
        {"prompt": "a", "unknown": 1},
    )),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body"), GIVEN, ids=lambda value: str(value)[:80])
def test_a_body_is_taken_exactly_where_its_schema_is_met(name: str, body: dict[str, Any]) -> None:
    try:
        BODIES[name].model_validate_json(orjson.dumps(body))  # type: ignore[attr-defined] # models
        taken = True
    except ValidationError:
        taken = False
    assert VALIDATORS[name].is_valid(body) == taken


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.name}-{row.endpoints[0]}")
def test_the_schema_has_each_row_of_the_table(row: Any) -> None:
    for endpoint in BOTH:
        name, fields = (
            ("ChatBody", CHAT_FIELDS) if endpoint == CHAT else ("CompletionBody", PROMPT_FIELDS)
        )
        if endpoint not in row.endpoints:
            continue
        for value in (None, *row.off, 17, "seventeen", {"a": 17}, [17], True, False):
            assert VALIDATORS[name].is_valid({**fields, row.name: value}) == row.accepts(value)


def test_a_mixture_goes_with_the_base_or_a_router() -> None:
    mixture = {**CHAT_FIELDS, "adapters": [{"name": "a"}]}
    assert VALIDATORS["ChatBody"].is_valid({**mixture, "model": "base"})
    assert not VALIDATORS["ChatBody"].is_valid({**mixture, "model": "other"})
    heavy = {**mixture, "model": "base", "adapters": [{"name": "a", "weight": 1e9}]}
    assert not VALIDATORS["ChatBody"].is_valid(heavy)
