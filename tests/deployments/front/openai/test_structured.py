"""Structured-output fields: what becomes a grammar, and what is refused by name."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper
from pydantic import ValidationError

from cluster.domain.ids import TenantId
from cluster.errors import GrammarTooComplex, RequestError
from deployments.front.http.problem import invalid_body
from deployments.front.openai.structured import grammar_request
from deployments.front.openai.wire import ChatBody, CompletionBody
from deployments.front.text.grammar_trial import GrammarTrial
from deployments.front.text.grammars import MAX_CHECKED, MAX_GRAMMAR_CHARS, GrammarChecker
from tests.support.small_cluster import make_base

ACME = TenantId("acme")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}

DEEP: dict[str, Any] = {}
for _ in range(150):
    DEEP = {"items": DEEP}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def trial(model_dir: Path) -> Iterator[GrammarTrial]:
    trial = GrammarTrial(model_dir)
    yield trial
    trial.close()


@pytest.fixture
def checker(trial: GrammarTrial) -> GrammarChecker:
    return GrammarChecker(trial)


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
async def test_each_field_becomes_a_grammar(
    fields: dict[str, Any], checker: GrammarChecker
) -> None:
    grammar = await checker.compile_grammar(ACME, grammar_request(body_of(**fields)))
    assert grammar
    assert LLMatcher.validate_grammar(grammar) == ""
    assert await checker.compile_grammar(ACME, grammar_request(body_of(**fields))) == grammar
    data = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    chat = ChatBody.model_validate_json(orjson.dumps(data))
    assert await checker.compile_grammar(ACME, grammar_request(chat)) == grammar


async def test_free_text_has_none(checker: GrammarChecker) -> None:
    assert await checker.compile_grammar(ACME, grammar_request(body_of())) == ""
    text = body_of(response_format={"type": "text"}, guided_regex=None, ignore_eos=True)
    assert await checker.compile_grammar(ACME, grammar_request(text)) == ""


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
        ({"guided_json": {"$ref": "#"}}, "guided_json"),
        ({"guided_grammar": "start: start start"}, "guided_grammar"),
        ({"guided_grammar": 'start: "a" b\nb: b b'}, "guided_grammar"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_choice": ["a" * MAX_GRAMMAR_CHARS]}, "guided_choice"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"structured_outputs": {"json": {"type": "x"}}}, "structured_outputs.json"),
    ],
)
async def test_what_does_not_compile_is_refused_by_name(
    fields: dict[str, Any], param: str, checker: GrammarChecker
) -> None:
    with pytest.raises(RequestError) as caught:
        await checker.compile_grammar(ACME, grammar_request(body_of(**fields)))
    assert caught.value.param == param
    assert param in caught.value.message
    assert "NoExtensionBias" not in caught.value.message
    assert not isinstance(caught.value, GrammarTooComplex)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "text", "json_schema": {}}}, "response_format.json_schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": schema_format("text")}, "response_format.json_schema.schema"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": [""]}, "guided_choice[0]"),
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


@pytest.mark.slow
async def test_what_was_checked_is_bounded(checker: GrammarChecker) -> None:
    for number in range(MAX_CHECKED + 5):
        await checker.compile_grammar(
            ACME, grammar_request(body_of(guided_regex=f"a{{{number + 1}}}"))
        )
    assert len(checker._checked) == MAX_CHECKED


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("guided_regex", "((a{1,100}){1,100}){1,100}"),
        ("guided_regex", "((a{1,30}){1,30}){1,30}"),
        (
            "guided_grammar",  # a chain of rules that overflows a stack
            "start: "
            + " | ".join(f"r{i}" for i in range(6000))
            + "\n"
            + "\n".join(f'r{i}: "k{i}" r{(i + 1) % 6000}?' for i in range(6000)),
        ),
        ("guided_grammar", "start: " + " ".join(["a?"] * 2000) + '\na: "x" | "y" a'),
    ],
)
async def test_what_grows_without_bound_is_refused_by_name(
    field: str, text: str, checker: GrammarChecker
) -> None:
    for _ in range(2):  # the second time from memory
        with pytest.raises(GrammarTooComplex) as caught:
            await checker.compile_grammar(ACME, grammar_request(body_of(**{field: text})))
        assert caught.value.param == field
        assert caught.value.status == 400
        assert len(caught.value.message) < 1000
    assert await checker.compile_grammar(ACME, grammar_request(body_of(guided_regex="[a-z]+")))


async def test_tenants_take_turns_at_being_tried(checker: GrammarChecker) -> None:
    bombs = [
        asyncio.create_task(
            checker.compile_grammar(
                ACME, grammar_request(body_of(guided_regex=f"((a{{1,{n}}}){{9}}){{9}}"))
            )
        )
        for n in range(200, 216)
    ]
    await asyncio.sleep(0)
    await checker.compile_grammar(TenantId("other"), grammar_request(body_of(guided_regex="ab")))
    assert sum(task.done() for task in bombs) <= 2
    await asyncio.gather(*bombs, return_exceptions=True)


@pytest.mark.parametrize("choices", [["a", "ab", "b|c"], [".*", "日本 🌊", "/\\", "new\nline"]])
async def test_a_choice_is_one_of_the_texts_and_nothing_else(
    choices: list[str], checker: GrammarChecker
) -> None:
    grammar = await checker.compile_grammar(ACME, grammar_request(body_of(guided_choice=choices)))
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
