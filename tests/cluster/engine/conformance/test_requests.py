"""Checks what every engine promises about the tokens and the end of a request."""

import math

import pytest

from cluster.domain.request import FinishReason, SamplingParams
from cluster.errors import EngineError, Overloaded, PromptTooLong, RequestError
from tests.cluster.engine.conformance.conftest import EOS, OPTIONS
from tests.support.engines import make_request
from tests.support.port_rig import PortRig, prompt

SHARES_AN_ENGINE = True
CONTEXT = OPTIONS["max_model_len"]


def sampling(max_tokens: int = 8, **fields: object) -> SamplingParams:
    return SamplingParams(**({"max_tokens": max_tokens, "temperature": 0.0} | fields))


def test_a_request_ends_with_as_many_tokens_as_it_may_have(rig: PortRig) -> None:
    told = rig.ask(make_request("a", prompt(9), sampling(6, ignore_eos=True)))
    assert told.end.finish_reason is FinishReason.LENGTH
    assert len(told.tokens) == 6
    assert (told.end.usage.prompt_tokens, told.end.usage.completion_tokens) == (9, 6)


def test_each_chunk_has_one_token_and_the_last_one_the_usage(rig: PortRig) -> None:
    told = rig.ask(make_request("a", prompt(9), sampling(6, ignore_eos=True)))
    assert [len(chunk.token_ids) for chunk in told.chunks] == [1] * 6
    assert [chunk.usage is None for chunk in told.chunks] == [True] * 5 + [False]


def test_the_context_window_ends_a_request(rig: PortRig) -> None:
    told = rig.ask(make_request("a", prompt(CONTEXT - 5), sampling(50, ignore_eos=True)))
    assert told.end.finish_reason is FinishReason.LENGTH
    assert len(told.tokens) == 5


def test_no_token_may_be_asked_for(rig: PortRig) -> None:
    told = rig.ask(make_request("a", prompt(9), sampling(0)))
    assert told.end.finish_reason is FinishReason.LENGTH
    assert told.tokens == []
    assert told.end.usage.completion_tokens == 0


def test_a_stop_token_ends_a_request_and_is_delivered(rig: PortRig) -> None:
    free = rig.ask(make_request("a", prompt(9), sampling(8, ignore_eos=True))).tokens
    stop = free[3]
    told = rig.ask(
        make_request("b", prompt(9), sampling(8, stop_token_ids=(stop,), ignore_eos=True))
    )
    assert told.end.finish_reason is FinishReason.STOP
    assert told.tokens == free[: free.index(stop) + 1]


def test_the_end_of_sequence_ends_a_request_unless_it_is_ignored(rig: PortRig) -> None:
    likely = ((EOS, 100.0),)
    told = rig.ask(make_request("a", prompt(9), sampling(5, logit_bias=likely)))
    assert told.end.finish_reason is FinishReason.STOP
    assert told.tokens == [EOS]
    told = rig.ask(make_request("b", prompt(9), sampling(5, logit_bias=likely, ignore_eos=True)))
    assert told.end.finish_reason is FinishReason.LENGTH
    assert told.tokens == [EOS] * 5


def test_no_end_comes_before_the_least_tokens(rig: PortRig) -> None:
    likely = ((EOS, 100.0),)
    told = rig.ask(make_request("a", prompt(9), sampling(9, logit_bias=likely, min_tokens=4)))
    assert told.end.finish_reason is FinishReason.STOP
    assert EOS not in told.tokens[:4]
    assert told.tokens[4:] == [EOS]


def test_greedy_answers_do_not_depend_on_company(rig: PortRig) -> None:
    requests = {f"{n}": prompt(5 + 7 * n, n) for n in range(4)}
    alone = {
        name: rig.ask(make_request(f"alone-{name}", ids, sampling(12, ignore_eos=True))).tokens
        for name, ids in requests.items()
    }
    for name, ids in requests.items():
        rig.submit(make_request(name, ids, sampling(12, ignore_eos=True)))
    rig.wait(*requests)
    assert {name: rig.told[name].tokens for name in requests} == alone


def test_a_seed_gives_the_same_tokens_and_another_one_others(rig: PortRig) -> None:
    drawn = {
        name: rig.ask(
            make_request(name, prompt(9), sampling(12, temperature=1.5, seed=seed, ignore_eos=True))
        ).tokens
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    }
    assert drawn["a"] == drawn["b"] != drawn["c"]


def test_a_resumed_request_gets_the_tokens_that_it_lacks(rig: PortRig) -> None:
    params = sampling(10, temperature=1.0, seed=3, ignore_eos=True)
    whole = rig.ask(make_request("a", prompt(9), params)).tokens
    rest = rig.ask(make_request("b", prompt(9), params, resumed_token_ids=tuple(whole[:4])))
    assert rest.tokens == whole[4:]
    assert rest.end.usage.completion_tokens == 10


@pytest.mark.parametrize("top", [0, 3])
def test_logprobs_come_with_their_tokens(rig: PortRig, top: int) -> None:
    told = rig.ask(make_request("a", prompt(9), sampling(5, logprobs=top, ignore_eos=True)))
    for chunk in told.chunks:
        (token,), (entry,) = chunk.token_ids, chunk.logprobs
        assert entry.logprob <= 0
        assert len(entry.top) == top
        if top:
            assert entry.top[0] == (token, entry.logprob)  # greedy
            assert sorted((value for _, value in entry.top), reverse=True) == [
                value for _, value in entry.top
            ]


def test_no_logprobs_come_unasked(rig: PortRig) -> None:
    told = rig.ask(make_request("a", prompt(9), sampling(3)))
    assert all(chunk.logprobs == () == chunk.prompt_logprobs for chunk in told.chunks)


def test_prompt_logprobs_cover_the_prompt_and_come_before_any_token(rig: PortRig) -> None:
    told = rig.ask(make_request("a", prompt(30), sampling(2, prompt_logprobs=2, ignore_eos=True)))
    entries = [entry for chunk in told.chunks for entry in chunk.prompt_logprobs]
    assert len(entries) == 29
    assert all(math.isfinite(entry.logprob) and len(entry.top) == 2 for entry in entries)
    first = next(n for n, chunk in enumerate(told.chunks) if chunk.token_ids)
    assert not any(chunk.prompt_logprobs for chunk in told.chunks[first + 1 :])


def test_a_deadline_ends_a_request(unstarted: PortRig) -> None:
    late = unstarted.clock.monotonic() + 5
    unstarted.submit(make_request("a", prompt(9), deadline_at=late))
    unstarted.submit(make_request("b", prompt(9), sampling(3)))
    unstarted.clock.advance(6)
    unstarted.engine.start()
    ended, other = unstarted.wait("a", "b")
    assert ended.end.finish_reason is FinishReason.DEADLINE
    assert ended.tokens == []
    assert len(other.tokens) == 3


def test_an_empty_prompt_is_refused(rig: PortRig) -> None:
    with pytest.raises(RequestError):
        rig.submit(make_request("a", []))


@pytest.mark.parametrize("length", [CONTEXT, CONTEXT + 30])
def test_a_prompt_without_room_for_an_answer_is_refused(rig: PortRig, length: int) -> None:
    with pytest.raises(PromptTooLong):
        rig.submit(make_request("a", prompt(length)))


def test_an_id_is_served_once_at_a_time(unstarted: PortRig) -> None:
    unstarted.submit(make_request("a", prompt(9)))
    with pytest.raises(RequestError):
        unstarted.submit(make_request("a", prompt(9)))
    unstarted.engine.start()
    assert len(unstarted.wait("a")[0].tokens) == 8
    assert len(unstarted.ask(make_request("a", prompt(9))).tokens) == 8


def test_a_full_queue_refuses(unstarted: PortRig) -> None:
    taken = OPTIONS["max_queued"] + OPTIONS["max_batch_size"]
    for n in range(taken):
        unstarted.submit(make_request(f"{n}", prompt(5), sampling(2)))
    with pytest.raises(Overloaded):
        unstarted.submit(make_request("one more", prompt(5), sampling(2)))
    unstarted.engine.start()
    unstarted.wait(*map(str, range(taken)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_k": -1},
        {"min_p": 2.0},
        {"logit_bias": ((3, math.inf),)},
        {"min_tokens": -1},
    ],
    ids=str,
)
def test_parameters_without_a_meaning_are_refused(rig: PortRig, wrong: dict[str, object]) -> None:
    with pytest.raises(EngineError):
        rig.submit(make_request("a", prompt(9), sampling(**wrong)))


def test_a_grammar_without_a_tokenizer_is_refused(rig: PortRig) -> None:
    request = make_request("a", prompt(9), sampling(grammar='{"grammars": []}'))
    with pytest.raises(RequestError):
        rig.engine.compile_grammar(request)
    with pytest.raises(RequestError):
        rig.submit(request)
    assert len(rig.ask(make_request("b", prompt(9), sampling(3))).tokens) == 3
