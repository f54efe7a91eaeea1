"""Answers that must have a form: the replica gets a grammar, and a bad one is refused by name."""

from typing import Any

import pytest

from tests.support.http_front import HttpFront
from tests.support.openai_bodies import CHAT, COMPLETIONS, chat, completion

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
NAMED = {"name": "answer", "schema": SCHEMA}
FIELDS: list[dict[str, Any]] = [
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": NAMED}},
    {"guided_json": SCHEMA},
    {"guided_json": '{"type": "array"}'},
    {"guided_regex": "[a-z]+"},
    {"guided_choice": ["yes", "no"]},
    {"guided_grammar": 'start: "a" | "b"'},
    {"structured_outputs": {"json": SCHEMA}},
    {"structured_outputs": {"regex": "[0-9]"}},
    {"structured_outputs": {"choice": ["up", "down"]}},
    {"structured_outputs": {"grammar": 'start: "c"'}},
    {"structured_outputs": {"json_object": True}},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
async def test_every_field_becomes_a_grammar(front: HttpFront, fields: dict[str, Any]) -> None:
    answer = await front.post(CHAT, chat(**fields))
    assert answer.status_code == 200, answer.text
    assert front.script.submitted[0].sampling.grammar
    answer = await front.post(COMPLETIONS, completion(**fields))
    assert answer.status_code == 200, answer.text
    first, second = front.script.submitted
    assert first.sampling.grammar == second.sampling.grammar


@pytest.mark.parametrize("fields", [{}, {"response_format": {"type": "text"}}], ids=str)
async def test_free_text_has_no_grammar(front: HttpFront, fields: dict[str, Any]) -> None:
    await front.post(CHAT, chat(**fields))
    assert front.script.submitted[0].sampling.grammar == ""


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_grammar": "start: nothing"}, "guided_grammar"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[]"}, "guided_json"),
        ({"guided_json": {"type": "wrong"}}, "guided_json"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "wrong"}},
                }
            },
            "response_format",
        ),
        ({"guided_choice": ["x" * 300_000]}, "guided_choice"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_form_that_cannot_be_followed_is_refused(
    front: HttpFront, fields: dict[str, Any], param: str
) -> None:
    answer = await front.post(CHAT, chat(**fields))
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")
    assert front.script.submitted == []


async def test_a_form_that_was_refused_is_refused_again(front: HttpFront) -> None:
    first, second = [await front.post(CHAT, chat(guided_regex="[")) for _ in range(2)]
    assert first.json() == second.json()
