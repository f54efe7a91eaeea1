"""Structured-output fields: what becomes a grammar, and what is refused by name."""

from typing import Any

import orjson
import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper
from pydantic import ValidationError

from cluster.errors import RequestError
from deployments.front.problem import invalid_body
from deployments.front.structured import MAX_CHECKED, MAX_GRAMMAR_CHARS, GrammarChecker
from deployments.front.wire import ChatBody, CompletionBody

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}

DEEP: dict[str, Any] = {}
for _ in range(150):
    DEEP = {"items": DEEP}


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


def body_of(**fields: Any) -> CompletionBody:
    data = {"model": "m", "prompt": "p", **fields}
    return CompletionBody.model_validate_json(orjson.dumps(data))


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": schema_format(SCHEMA)},
        {"guided_json": SCHEMA},
        {"guided_regex": "[a-z]+"},
        {"guided_grammar": 'start: "a" | "b" start'},
        {"guided_json": orjson.dumps(SCHEMA).decode()},
        {"guided_choice": ["a", "b|c", ".*", "日本 🌊", "new\nline", "/\\"]},
        {"structured_outputs": {"choice": ["a", "b"]}},
        {"structured_outputs": {"regex": "[a-z]+", "json": None, "disable_fallback": True}},
        {"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": False}},
        {"structured_outputs": {"json": orjson.dumps(SCHEMA).decode()}},
        {"structured_outputs": {"grammar": 'start: "a"'}},
        {"structured_outputs": {"json_object": True}},
    ],
)
async def test_each_field_becomes_a_grammar(fields: dict[str, Any]) -> None:
    checker = GrammarChecker()
    grammar = await checker.grammar_of(body_of(**fields))
    assert grammar
    assert LLMatcher.validate_grammar(grammar) == ""
    assert await checker.grammar_of(body_of(**fields)) == grammar
    data = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    chat = ChatBody.model_validate_json(orjson.dumps(data))
    assert await checker.grammar_of(chat) == grammar


async def test_free_text_has_none() -> None:
    assert await GrammarChecker().grammar_of(body_of()) == ""
    text = body_of(response_format={"type": "text"}, guided_regex=None, ignore_eos=True)
    assert await GrammarChecker().grammar_of(text) == ""


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": schema_format({"type": "nonsense"})}, "response_format"),
        ({"response_format": schema_format({"$ref": "http://a/b"})}, "response_format"),
        ({"guided_json": {"not": {"type": "string"}}}, "guided_json"),
        ({"guided_json": DEEP}, "guided_json"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_regex": "(?=a)b"}, "guided_regex"),
        ({"guided_regex": "a" * (MAX_GRAMMAR_CHARS + 1)}, "guided_regex"),
        ({"guided_grammar": "start: nothing"}, "guided_grammar"),
        ({"guided_json": "[1]"}, "guided_json"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_choice": ["a" * MAX_GRAMMAR_CHARS]}, "guided_choice"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"structured_outputs": {"json": {"type": "x"}}}, "structured_outputs.json"),
    ],
)
async def test_what_does_not_compile_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        await GrammarChecker().grammar_of(body_of(**fields))
    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "text", "json_schema": {}}}, "response_format.json_schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": schema_format("text")}, "response_format.json_schema.schema"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": [""]}, "guided_choice.0"),
        ({"guided_choice": ["a"], "guided_regex": "a"}, "guided_choice"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "whitespace_pattern": " "}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}, "guided_json": {}}, "guided_json"),
        ({"guided_regex": "a", "guided_json": {}}, "guided_regex"),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos"),
        ({"guided_regex": "a", "min_tokens": 1}, "min_tokens"),
        ({"response_format": {"type": "json_object"}, "guided_grammar": "x"}, "guided_grammar"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ValidationError) as caught:
        body_of(**fields)
    assert (invalid_body(caught.value).param or "").startswith(param)


async def test_what_was_checked_is_bounded() -> None:
    checker = GrammarChecker()
    for number in range(MAX_CHECKED + 5):
        await checker.grammar_of(body_of(guided_regex=f"a{{{number + 1}}}"))
    assert len(checker._checked) == MAX_CHECKED


@pytest.mark.parametrize("choices", [["a", "ab", "b|c"], [".*", "日本 🌊", "/\\", "new\nline"]])
async def test_a_choice_is_one_of_the_texts_and_nothing_else(choices: list[str]) -> None:
    grammar = await GrammarChecker().grammar_of(body_of(guided_choice=choices))
    tokens = [*(bytes([byte]) for byte in range(255)), b"\xff\xff<end>"]
    vocabulary = LLTokenizer(TokenizerWrapper(ByteTokens(tokens)))
    for text in [*choices, "a|b", "x", "日", "abc"]:
        matcher = LLMatcher(vocabulary, grammar)
        consumed = matcher.try_consume_tokens(list(text.encode()))
        whole = consumed == len(text.encode()) and matcher.is_accepting()
        assert whole == (text in choices), text


class ByteTokens:
    """A tokenizer of bytes, as llguidance wants one."""

    bos_token_id = None
    eos_token_id = 255

    def __init__(self, tokens: list[bytes]) -> None:
        self.tokens = tokens
        self.special_token_ids = [255]

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())
