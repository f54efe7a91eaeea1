"""Checks what every engine promises about cancelling, stopping and its numbers."""

import math
import threading

import pytest

from cluster.domain.ids import Slot
from cluster.domain.request import FinishReason, SamplingParams
from cluster.errors import EngineError, ReplicaLost
from tests.support.engines import make_request
from tests.support.port_rig import PortRig, mix, prompt

LONG = SamplingParams(max_tokens=60, temperature=0.0, ignore_eos=True)


def test_a_cancelled_request_ends_before_its_next_token(rig: PortRig) -> None:
    def on_chunk(chunk):
        if len(rig.told["a"].tokens) == 3 and chunk.finish_reason is None:
            assert rig.engine.cancel("a")

    rig.on_chunk = on_chunk
    told = rig.ask(make_request("a", prompt(9), LONG))
    assert told.end.finish_reason is FinishReason.CANCELLED
    assert len(told.tokens) == 3
    assert told.end.usage.completion_tokens == 3


def test_a_waiting_request_can_be_cancelled(unstarted: PortRig) -> None:
    unstarted.submit(make_request("a", prompt(9), LONG))
    assert unstarted.engine.cancel("a")
    unstarted.engine.start()
    (told,) = unstarted.wait("a")
    assert told.end.finish_reason is FinishReason.CANCELLED
    assert told.tokens == []


def test_what_is_not_live_cannot_be_cancelled(rig: PortRig) -> None:
    assert rig.engine.cancel("nobody") is False
    rig.ask(make_request("a", prompt(9)))
    assert rig.engine.cancel("a") is False


def test_a_request_that_has_not_begun_can_be_withdrawn(unstarted: PortRig) -> None:
    unstarted.submit(make_request("a", prompt(9)))
    unstarted.submit(make_request("b", prompt(9)))
    assert unstarted.engine.withdraw("a")
    assert unstarted.engine.withdraw("a") is False
    unstarted.engine.start()
    unstarted.wait("b")
    assert unstarted.told.pop("a").chunks == []


def test_what_has_begun_or_was_cancelled_cannot_be_withdrawn(unstarted: PortRig) -> None:
    answers: list[bool] = []

    def on_chunk(chunk):
        if chunk.request_id == "b" and chunk.finish_reason is None:
            answers.append(unstarted.engine.withdraw("b"))

    unstarted.on_chunk = on_chunk
    unstarted.submit(make_request("a", prompt(9)))
    unstarted.submit(make_request("b", prompt(9)))
    unstarted.engine.cancel("a")
    assert unstarted.engine.withdraw("a") is False
    unstarted.engine.start()
    unstarted.wait("a", "b")
    assert answers == [False] * 7
    assert len(unstarted.told["b"].tokens) == 8


def test_draining_completes_what_is_live_and_refuses_what_comes(unstarted: PortRig) -> None:
    for name in "ab":
        unstarted.submit(make_request(name, prompt(9)))
    unstarted.engine.start()
    assert unstarted.engine.stop(drain=True, timeout_s=120)
    assert [len(told.tokens) for told in unstarted.wait("a", "b")] == [8, 8]
    with pytest.raises(ReplicaLost):
        unstarted.submit(make_request("c", prompt(9)))


def test_stopping_at_once_ends_what_is_live_so_that_it_can_be_continued(rig: PortRig) -> None:
    stopper = threading.Thread(target=lambda: rig.engine.stop(drain=False, timeout_s=120))

    def on_chunk(chunk):
        if len(rig.told["a"].tokens) == 2 and chunk.finish_reason is None:
            stopper.start()
            while not _refuses(rig):
                pass

    rig.on_chunk = on_chunk
    told = rig.ask(make_request("a", prompt(9), LONG))
    stopper.join()
    assert told.end.finish_reason is FinishReason.ERROR
    assert told.end.error_code == "replica_lost"
    assert told.tokens == _tokens_before_the_end(told)
    assert len(told.tokens) < 60


def _refuses(rig: PortRig) -> bool:
    """Return whether the engine refuses requests because it is stopping."""
    try:
        rig.engine.submit(make_request("probe", prompt(5)), "n", mix())
    except ReplicaLost:
        return True
    rig.engine.withdraw("probe")
    return False


def _tokens_before_the_end(told) -> list[int]:
    return [token for chunk in told.chunks[:-1] for token in chunk.token_ids]


def test_an_engine_that_never_ran_ends_what_it_was_given(unstarted: PortRig) -> None:
    unstarted.submit(make_request("a", prompt(9)))
    assert unstarted.engine.stop(drain=True, timeout_s=5)
    assert unstarted.wait("a")[0].end.error_code == "replica_lost"


def test_an_engine_starts_once(rig: PortRig) -> None:
    with pytest.raises(EngineError):
        rig.engine.start()


def test_an_engine_that_does_not_run_has_stalled_for_ever(unstarted: PortRig) -> None:
    assert math.isinf(unstarted.engine.stalled_for())
    unstarted.engine.start()
    unstarted.ask(make_request("a", prompt(9)))
    assert math.isfinite(unstarted.engine.stalled_for())
    assert unstarted.engine.stop(drain=True, timeout_s=120)
    assert math.isinf(unstarted.engine.stalled_for())


def test_numbers_add_up(rig: PortRig) -> None:
    lengths = {f"{n}": 5 + 3 * n for n in range(6)}
    for name, length in lengths.items():
        rig.submit(make_request(name, prompt(length, length), LONG))
    told = rig.wait(*lengths)
    stats = rig.engine.stats()
    assert stats.counters.generated_tokens == sum(len(one.tokens) for one in told) == 6 * 60
    assert stats.counters.prompt_tokens == sum(lengths.values())
    assert stats.counters.step_tokens >= stats.counters.generated_tokens
    assert stats.counters.steps >= 60
    assert stats.counters.failed_requests == stats.counters.failed_steps == 0
    assert dict(stats.as_counters())["generated_tokens"] == 360
    assert 0 <= stats.kv_blocks_free <= stats.kv_blocks_total


def test_the_crowded_engine_preempts_and_answers_all_the_same(rig: PortRig, kind: str) -> None:
    alone = rig.ask(make_request("alone", prompt(9), LONG)).tokens
    names = [f"{n}" for n in range(5)]
    for name in names:
        rig.submit(make_request(name, prompt(9), LONG))
    assert [told.tokens for told in rig.wait(*names)] == [alone] * 5
    if "crowded" in kind:
        assert rig.engine.stats().preemptions > 0


def test_waiting_requests_are_counted(unstarted: PortRig) -> None:
    for name in "abc":
        unstarted.submit(make_request(name, prompt(9)))
    stats = unstarted.engine.stats()
    assert (stats.running, stats.waiting) == (0, 3)
    unstarted.engine.start()
    unstarted.wait(*"abc")


def test_a_receiver_that_fails_does_not_stop_the_others(rig: PortRig) -> None:
    def on_chunk(chunk):
        if chunk.request_id == "a" and chunk.finish_reason is None:
            raise RuntimeError("the receiver fails")

    rig.on_chunk = on_chunk
    rig.submit(make_request("a", prompt(9)))
    rig.wait("a")
    rig.on_chunk = None
    assert rig.engine.stats().counters.callback_failures > 0
    assert len(rig.ask(make_request("b", prompt(9))).tokens) == 8


def test_the_work_of_steps_adds_up(rig: PortRig) -> None:
    rig.load(0, seed=1)
    nbytes = rig.adapters.nbytes(0)
    rig.ask(make_request("base", prompt(9)))
    before = rig.engine.stats().counters.step_totals
    assert (before.adapter_bytes, before.rank_rows) == (0, 0)
    assert (before.prefill_tokens, before.decode_rows) == (9, 7)
    rig.ask(make_request("adapted", prompt(9)), ((Slot(0), 1.0),))
    done = rig.engine.stats().counters.step_totals.since(before)
    assert (done.prefill_tokens, done.decode_rows) == (9, 7)
    assert done.adapter_bytes == done.steps * nbytes
    assert done.rank_rows == 4 * (9 + 7)


def test_prompts_that_wait_are_backlog_of_their_tenants(unstarted: PortRig) -> None:
    for name, length in (("a", 9), ("b", 20)):
        unstarted.submit(make_request(name, prompt(length)))
    (tokens,) = unstarted.engine.backlog().values()
    assert tokens == 29
    unstarted.engine.start()
    unstarted.wait("a", "b")
    assert unstarted.engine.backlog() == {}
