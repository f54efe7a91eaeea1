"""Fields that are not served: null and what switches them off pass, the rest is refused by name."""

import typing
from pathlib import Path
from typing import Any

import orjson
import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from pydantic import ValidationError

from cluster.errors import RequestError
from deployments.front.http.problem import invalid_body
from deployments.front.openai.unserved import BOTH, CHAT, COMPLETIONS, TABLE, TYPES, UnservedField
from deployments.front.openai.wire import ChatBody, CompletionBody, RouteBody

DOCS = Path(__file__).parents[4] / "docs" / "http-api.md"
ASKED = [{"role": "user", "content": "a"}]
REQUIRED = {"model", "messages", "prompt"}

SAMPLES: dict[str, Any] = {"string": "x", "object": {"a": "b"}, "boolean": True, "array": [1]}
EXTENSIONS = """
    add_generation_prompt add_special_tokens allowed_token_ids bad_words best_of cache_salt
    chat_template chat_template_kwargs continue_final_message detokenize documents echo explain
    guided_choice guided_decoding_backend guided_grammar guided_json guided_regex
    guided_whitespace_pattern ignore_eos include_reasoning include_stop_str_in_output
    kv_transfer_params length_penalty logits_processors lora_adapter min_p min_tokens
    mm_processor_kwargs priority prompt_logprobs repetition_penalty request_id return_token_ids
    return_tokens_as_token_ids skip_special_tokens spaces_between_special_tokens stop_token_ids
    structured_outputs top_k truncate_prompt_tokens use_beam_search vllm_xargs adapters
""".split()  # noqa: SIM905 # one on each line is a page
"""Lists vLLM's fields besides OpenAI's, and this server's own."""


def parse(endpoint: str, **fields: Any) -> ChatBody | CompletionBody:
    kind: type[ChatBody | CompletionBody] = ChatBody if endpoint == CHAT else CompletionBody
    asked = {"messages": ASKED} if endpoint == CHAT else {"prompt": "a"}
    return kind.model_validate_json(orjson.dumps({"model": "m", **asked, **fields}))


def refusal(endpoint: str, **fields: Any) -> RequestError:
    with pytest.raises(ValidationError) as caught:
        parse(endpoint, **fields)
    return invalid_body(caught.value)


def fields_of_client(module: Any) -> set[str]:
    """Return the fields that the official client's types know."""
    kinds = (module.CompletionCreateParamsNonStreaming, module.CompletionCreateParamsStreaming)
    return {name for kind in kinds for name in typing.get_type_hints(kind)}


OPENAI = {
    CHAT: fields_of_client(chat_create_params) - REQUIRED,
    COMPLETIONS: fields_of_client(completion_create_params) - REQUIRED,
}


@pytest.mark.parametrize("endpoint", BOTH)
def test_null_of_every_field_of_the_official_client_passes(endpoint: str) -> None:
    assert len(OPENAI[endpoint]) > 10
    for name in sorted(OPENAI[endpoint]):
        parse(endpoint, **{name: None})
    parse(endpoint, **dict.fromkeys(OPENAI[endpoint]))


@pytest.mark.parametrize("endpoint", BOTH)
@pytest.mark.parametrize("name", EXTENSIONS)
def test_null_of_every_extension_passes(endpoint: str, name: str) -> None:
    parse(endpoint, **{name: None})


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.name}-{row.endpoints[0]}")
def test_each_row_accepts_its_off_values_and_refuses_others_by_name(row: UnservedField) -> None:
    for endpoint in row.endpoints:
        parse(endpoint, **{row.name: None})
        for value in row.off:
            parse(endpoint, **{row.name: value})
        if row.hint is not None:
            parse(endpoint, **{row.name: SAMPLES[row.hint]})
        others = [17, "seventeen", {"a": 17}, [17], True, False]
        wrong = [value for value in others if not row.accepts(value)]
        assert wrong
        for value in wrong:
            error = refusal(endpoint, **{row.name: value})
            assert error.param == row.name
            assert error.message.count(row.name) == 1
            assert "\n" not in error.message
            assert len(error.message) < 160


def test_every_hint_has_a_type() -> None:
    assert {row.hint for row in TABLE if row.hint is not None} <= TYPES.keys()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": True}, "best_of"),
        ({"store": 0}, "store"),
        ({"priority": False}, "priority"),
        ({"length_penalty": True}, "length_penalty"),
        ({"stream_options": {"continuous_usage_stats": 0}}, "stream_options"),
    ],
)
def test_false_is_not_zero(fields: dict[str, Any], param: str) -> None:
    for endpoint in BOTH:
        assert (refusal(endpoint, stream=True, **fields).param or "").startswith(param)


@pytest.mark.parametrize("endpoint", BOTH)
@pytest.mark.parametrize(
    ("misspelt", "near"),
    [
        ("temprature", "temperature"),
        ("max_token", "max_tokens"),
        ("metadat", "metadata"),
        ("x" * 5000, None),
        ("wholly other", None),
    ],
)
def test_a_misspelt_field_is_refused_with_the_nearest(
    endpoint: str, misspelt: str, near: str | None
) -> None:
    error = refusal(endpoint, **{misspelt: 1})
    assert error.param == misspelt[:64]
    assert "unknown field" in error.message
    assert ("nearest" in error.message) == (near is not None)
    assert near is None or repr(near) in error.message
    assert len(error.message) < 200


def test_only_the_first_wrong_field_is_told() -> None:
    error = refusal(CHAT, **{f"unknown_{number}": 1 for number in range(5000)})
    assert error.param == "unknown_0"
    assert len(error.message) < 200


def test_a_route_still_knows_its_own_fields_only() -> None:
    with pytest.raises(ValidationError):
        RouteBody.model_validate({"prompt": "a", "metadata": None})


def test_the_documentation_has_the_table() -> None:
    page = DOCS.read_text(encoding="utf-8")
    for row in TABLE:
        said = _documented(row)
        assert said in page, f"docs/http-api.md: expected the line\n{said}"


def _documented(row: UnservedField) -> str:
    """Return the documentation's table row: field, where, what is accepted, what else is said."""
    where = "both" if row.endpoints == BOTH else row.endpoints[0]
    values = [f"any {row.hint}"] if row.hint else [orjson.dumps(v).decode() for v in row.off]
    accepted = ", ".join(f"`{value}`" if not row.hint else value for value in values) or "-"
    return f"| `{row.name}` | {where} | {accepted} | {row.instead or '-'} |"
