"""Chat completions that are answered whole."""

import pytest

from cluster.domain.request import FinishReason
from tests.support.front_wiring import STARTED_AT
from tests.support.http_front import HttpFront
from tests.support.openai_bodies import CHAT, chat
from tests.support.scripted_replica import MAX_MODEL_LEN, Speech

PROMPT = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


async def test_an_answer_has_the_shape_of_openai(front: HttpFront) -> None:
    front.says("Hello there.")
    answer = await front.post(CHAT, chat())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "id": f"chatcmpl-{answer.headers['x-request-id']}",
        "object": "chat.completion",
        "created": STARTED_AT,
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello there.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 21,
            "completion_tokens": 13,
            "total_tokens": 34,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


async def test_the_replica_gets_the_conversation_as_the_template_writes_it(
    front: HttpFront,
) -> None:
    await front.post(CHAT, chat())
    (sent,) = front.script.submitted
    assert front.text_of(sent.prompt_token_ids) == PROMPT


async def test_special_tokens_in_a_message_are_text(front: HttpFront) -> None:
    await front.post(CHAT, chat("<|im_end|>"))
    (sent,) = front.script.submitted
    assert front.text_of(sent.prompt_token_ids) == PROMPT.replace("hi", "<|im_end|>")
    end_of_turn = 3
    assert sent.prompt_token_ids.count(end_of_turn) == 1


async def test_a_message_may_be_continued(front: HttpFront) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well"}]
    answer = await front.post(CHAT, chat(messages=messages, continue_final_message=True))
    assert answer.status_code == 200
    (sent,) = front.script.submitted
    assert front.text_of(sent.prompt_token_ids) == PROMPT + "Well"


async def test_a_message_may_be_made_of_parts(front: HttpFront) -> None:
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    answer = await front.post(CHAT, chat(messages=[{"role": "user", "content": parts}]))
    assert answer.status_code == 200
    (sent,) = front.script.submitted
    assert "h" in front.text_of(sent.prompt_token_ids)


async def test_an_answer_ends_at_max_tokens(front: HttpFront) -> None:
    front.says("Hello there.")
    answer = await front.post(CHAT, chat(max_tokens=5))
    (choice,) = answer.json()["choices"]
    assert choice["message"]["content"] == "Hello"
    assert choice["finish_reason"] == "length"
    assert answer.json()["usage"]["completion_tokens"] == 5


async def test_max_completion_tokens_is_the_same_limit(front: HttpFront) -> None:
    front.says("Hello there.")
    answer = await front.post(CHAT, chat(max_completion_tokens=5))
    assert answer.json()["choices"][0]["message"]["content"] == "Hello"


async def test_without_a_limit_an_answer_may_fill_the_context(front: HttpFront) -> None:
    await front.post(CHAT, chat())
    (sent,) = front.script.submitted
    assert sent.sampling.max_tokens == MAX_MODEL_LEN - len(sent.prompt_token_ids)


async def test_a_limit_beyond_the_context_is_cut_to_it(front: HttpFront) -> None:
    assert (await front.post(CHAT, chat(max_tokens=10_000))).status_code == 200
    (sent,) = front.script.submitted
    assert sent.sampling.max_tokens == MAX_MODEL_LEN - len(sent.prompt_token_ids)


async def test_several_choices_are_answered_in_order(front: HttpFront) -> None:
    front.says("one", "two", "three")
    answer = await front.post(CHAT, chat(n=3))
    choices = answer.json()["choices"]
    assert [choice["message"]["content"] for choice in choices] == ["one", "two", "three"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    usage = answer.json()["usage"]
    assert usage["prompt_tokens"] == 21  # once
    assert usage["completion_tokens"] == 4 + 4 + 6


async def test_each_choice_has_a_seed_of_its_own(front: HttpFront) -> None:
    await front.post(CHAT, chat(n=3, seed=40))
    assert [sent.sampling.seed for sent in front.script.submitted] == [40, 41, 42]


async def test_a_stop_string_ends_an_answer_and_is_left_out(front: HttpFront) -> None:
    front.says("Hello there. More.")
    answer = await front.post(CHAT, chat(stop=[".", "!"]))
    (choice,) = answer.json()["choices"]
    assert choice["message"]["content"] == "Hello there"
    assert choice["finish_reason"] == "stop"
    await front.until(lambda: front.script.cancelled)


async def test_a_stop_string_may_be_one_text(front: HttpFront) -> None:
    front.says("Hello there. More.")
    answer = await front.post(CHAT, chat(stop="there"))
    assert answer.json()["choices"][0]["message"]["content"] == "Hello "


async def test_a_stop_string_may_be_part_of_the_answer(front: HttpFront) -> None:
    front.says("Hello there. More.")
    answer = await front.post(CHAT, chat(stop="there", include_stop_str_in_output=True))
    assert answer.json()["choices"][0]["message"]["content"] == "Hello there"


async def test_a_stop_string_does_not_count_before_min_tokens(front: HttpFront) -> None:
    front.says("a.b.c.")
    answer = await front.post(CHAT, chat(stop=".", min_tokens=3))
    assert answer.json()["choices"][0]["message"]["content"] == "a.b"


async def test_a_stop_token_ends_an_answer(front: HttpFront) -> None:
    front.says("abcdef")
    answer = await front.post(CHAT, chat(stop_token_ids=[front.token("d")]))
    (choice,) = answer.json()["choices"]
    assert choice["message"]["content"] == "abc"
    assert choice["finish_reason"] == "stop"


async def test_characters_of_several_tokens_come_whole(front: HttpFront) -> None:
    front.says("für 5 €")
    answer = await front.post(CHAT, chat())
    assert answer.json()["choices"][0]["message"]["content"] == "für 5 €"


async def test_cached_tokens_are_told(front: HttpFront) -> None:
    front.says(Speech("Yes.", cached_tokens=16))
    usage = (await front.post(CHAT, chat())).json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 16}


async def test_sampling_fields_reach_the_replica(front: HttpFront) -> None:
    await front.post(
        CHAT,
        chat(
            temperature=0.5,
            top_p=0.9,
            top_k=7,
            min_p=0.1,
            seed=3,
            presence_penalty=0.25,
            frequency_penalty=-0.5,
            repetition_penalty=1.5,
            logit_bias={"7": 2, "5": -1},
            min_tokens=2,
            ignore_eos=True,
        ),
    )
    sampling = front.script.submitted[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert (sampling.min_p, sampling.seed, sampling.min_tokens) == (0.1, 3, 2)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.25, -0.5)
    assert sampling.repetition_penalty == 1.5
    assert sampling.logit_bias == ((5, -1.0), (7, 2.0))
    assert sampling.ignore_eos


async def test_the_narrowest_nucleus_is_greedy(front: HttpFront) -> None:
    await front.post(CHAT, chat(top_p=0))
    assert front.script.submitted[0].sampling.temperature == 0


async def test_logprobs_have_each_token_with_its_bytes_and_alternatives(
    front: HttpFront,
) -> None:
    front.says(Speech("ab", ends=FinishReason.LENGTH))
    answer = await front.post(CHAT, chat(logprobs=True, top_logprobs=2, max_tokens=2))
    logprobs = answer.json()["choices"][0]["logprobs"]
    assert logprobs["refusal"] is None
    assert logprobs["content"] == [
        {
            "token": letter,
            "logprob": -0.5,
            "bytes": [ord(letter)],
            "top_logprobs": [
                {"token": letter, "logprob": -0.5, "bytes": [ord(letter)]},
                {"token": after, "logprob": -1.0, "bytes": [ord(after)]},
            ],
        }
        for letter, after in (("a", "b"), ("b", "c"))
    ]


async def test_logprobs_without_alternatives(front: HttpFront) -> None:
    answer = await front.post(CHAT, chat(logprobs=True, max_tokens=1))
    (content,) = answer.json()["choices"][0]["logprobs"]["content"]
    assert content["top_logprobs"] == []


async def test_fields_that_change_nothing_are_taken(front: HttpFront) -> None:
    harmless = {"user": "someone", "tools": None, "stream": False, "stream_options": None}
    assert (await front.post(CHAT, chat(**harmless))).status_code == 200


@pytest.mark.parametrize("role", ["system", "developer", "assistant", "user"])
async def test_every_role_of_a_conversation_is_taken(front: HttpFront, role: str) -> None:
    messages = [{"role": role, "content": "a"}, {"role": "user", "content": "hi"}]
    assert (await front.post(CHAT, chat(messages=messages))).status_code == 200
