"""Completions that are answered whole."""

import json
from typing import Any

import pytest

from cluster.domain.request import FinishReason
from tests.support.front_wiring import STARTED_AT
from tests.support.http_front import HttpFront
from tests.support.openai_bodies import COMPLETIONS, completion
from tests.support.scripted_replica import Speech


async def test_an_answer_has_the_shape_of_openai(front: HttpFront) -> None:
    front.says("Hello.")
    answer = await front.post(COMPLETIONS, completion("Say hello"))
    assert answer.status_code == 200
    assert answer.json() == {
        "id": f"cmpl-{answer.headers['x-request-id']}",
        "object": "text_completion",
        "created": STARTED_AT,
        "model": "tiny",
        "choices": [{"index": 0, "text": "Hello.", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 7,
            "total_tokens": 16,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


async def test_sixteen_tokens_are_generated_where_nothing_is_said(front: HttpFront) -> None:
    front.says("x" * 40)
    answer = await front.post(COMPLETIONS, {"model": "tiny", "prompt": "a"})
    (choice,) = answer.json()["choices"]
    assert choice["text"] == "x" * 16
    assert choice["finish_reason"] == "length"


async def test_the_prompt_is_what_the_replica_gets(front: HttpFront) -> None:
    await front.post(COMPLETIONS, completion("Say <|im_end|>"))
    (sent,) = front.script.submitted
    assert len(sent.prompt_token_ids) == 5  # a special token that is written here is one
    assert front.text_of(sent.prompt_token_ids) == "Say <|im_end|>"


async def test_a_prompt_may_be_token_ids(front: HttpFront) -> None:
    await front.post(COMPLETIONS, completion([9, 8, 7.0]))
    assert front.script.submitted[0].prompt_token_ids == (9, 8, 7)


@pytest.mark.parametrize("prompts", [["one", "three"], [[9, 8, 7], [6]]], ids=["texts", "ids"])
async def test_several_prompts_are_answered_in_order(front: HttpFront, prompts: Any) -> None:
    front.says("a", "b")
    answer = await front.post(COMPLETIONS, completion(prompts))
    assert [choice["text"] for choice in answer.json()["choices"]] == ["a", "b"]
    assert answer.json()["usage"]["prompt_tokens"] == sum(map(len, prompts))


async def test_choices_of_several_prompts_stand_together(front: HttpFront) -> None:
    front.says("1a", "1b", "2a", "2b")
    answer = await front.post(COMPLETIONS, completion(["one", "two"], n=2))
    assert [choice["text"] for choice in answer.json()["choices"]] == ["1a", "1b", "2a", "2b"]
    usage = answer.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (6, 12)


async def test_an_echo_begins_with_the_prompt(front: HttpFront) -> None:
    front.says(" World")
    answer = await front.post(COMPLETIONS, completion("Hello", echo=True))
    assert answer.json()["choices"][0]["text"] == "Hello World"


async def test_each_choice_echoes_its_own_prompt(front: HttpFront) -> None:
    front.says("!")
    answer = await front.post(COMPLETIONS, completion(["a", "b"], n=2, echo=True))
    assert [choice["text"] for choice in answer.json()["choices"]] == ["a!", "a!", "b!", "b!"]


async def test_an_echo_of_token_ids_is_their_text(front: HttpFront) -> None:
    front.says("!")
    ids = [front.token("H"), front.token("i")]
    answer = await front.post(COMPLETIONS, completion(ids, echo=True))
    assert answer.json()["choices"][0]["text"] == "Hi!"


async def test_logprobs_are_lists_over_the_tokens(front: HttpFront) -> None:
    front.says(Speech("abc", ends=FinishReason.LENGTH))
    answer = await front.post(COMPLETIONS, completion(logprobs=2, max_tokens=2))
    assert answer.json()["choices"][0]["logprobs"] == {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"a": -0.5, "b": -1.0}, {"b": -0.5, "c": -1.0}],
        "text_offset": [0, 1],
    }


async def test_an_echo_with_logprobs_scores_the_prompt(front: HttpFront) -> None:
    front.says("xy")
    answer = await front.post(COMPLETIONS, completion("ab", echo=True, logprobs=0, max_tokens=1))
    (choice,) = answer.json()["choices"]
    assert choice["text"] == "abx"
    assert choice["logprobs"] == {
        "tokens": ["a", "b", "x"],
        "token_logprobs": [None, -0.5, -0.5],
        "top_logprobs": [None, {"b": -0.5}, {"x": -0.5}],
        "text_offset": [0, 1, 2],
    }


async def test_an_echo_of_token_ids_is_scored_token_by_token(front: HttpFront) -> None:
    front.says("x")
    ids = [front.token(letter) for letter in "ab"]
    answer = await front.post(COMPLETIONS, completion(ids, echo=True, logprobs=0, max_tokens=1))
    logprobs = answer.json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["a", "b", "x"]
    assert logprobs["text_offset"] == [0, 1, 2]


async def test_a_prompt_alone_may_be_scored(front: HttpFront) -> None:
    front.says(Speech("", ends=FinishReason.LENGTH))
    body = completion("abc", echo=True, logprobs=1, max_tokens=0)
    answer = await front.post(COMPLETIONS, body)
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    assert choice["text"] == "abc"
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"]["tokens"] == ["a", "b", "c"]
    assert answer.json()["usage"]["completion_tokens"] == 0


async def test_special_tokens_are_left_out_unless_asked_for(front: HttpFront) -> None:
    for skip, text in ((True, "ab"), (False, "ab</s>"), (None, "ab")):
        front.says(Speech("ab"))
        body = completion(
            skip_special_tokens=skip, include_stop_str_in_output=True, ignore_eos=False
        )
        answer = await front.post(COMPLETIONS, body)
        assert answer.json()["choices"][0]["text"] == text


async def test_an_answer_of_no_text_is_one(front: HttpFront) -> None:
    front.says("")
    answer = await front.post(COMPLETIONS, completion())
    (choice,) = answer.json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "stop")
    assert answer.json()["usage"]["completion_tokens"] == 1


async def test_bytes_that_are_no_text_become_replacement_characters(front: HttpFront) -> None:
    front.says(Speech(b"a\xffb"))
    answer = await front.post(COMPLETIONS, completion())
    assert answer.json()["choices"][0]["text"] == "a�b"


async def test_a_large_body_is_read_and_answered(front: HttpFront) -> None:
    body = completion("a" * 30, user="u" * 100, logit_bias={str(n): 0.5 for n in range(200)})
    padded = (" " * 80_000 + json.dumps(body)).encode()
    answer = await front.post(COMPLETIONS, padded)
    assert answer.status_code == 200
    assert len(front.script.submitted[0].sampling.logit_bias) == 200
