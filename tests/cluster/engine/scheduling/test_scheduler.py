from collections.abc import Callable
from typing import Any

import pytest

from cluster.domain.ids import RequestId
from cluster.domain.request import FinishReason
from cluster.engine.sequence import SequenceStatus
from cluster.errors import EngineError, IntegrityError
from tests.support.kv_model import used_blocks

STOP = 0


def test_nothing_to_do(make_rig: Callable[..., Any]) -> None:
    rig = make_rig()
    assert rig.scheduler.schedule() is None
    assert rig.scheduler.expire() == []
    assert rig.scheduler.cancel(RequestId("unknown")) is None


def test_prefill_then_decode_until_the_length(make_rig: Callable[..., Any]) -> None:
    rig = make_rig()
    sequence = rig.add("a", 6, max_tokens=3)
    assert (rig.scheduler.waiting, rig.scheduler.running) == (1, 0)
    assert rig.step() == {"a": (0, 6, True)}
    assert (rig.scheduler.waiting, rig.scheduler.running) == (0, 1)
    assert rig.step() == {"a": (6, 1, True)}
    plan = rig.plan()
    assert rig.shares(plan) == {"a": (7, 1, True)}
    assert rig.commit(plan) == [sequence]
    assert sequence.finish_reason is FinishReason.LENGTH
    assert sequence.generated_token_ids == [7, 7, 7]
    assert rig.scheduler.sequences == ()
    assert used_blocks(rig.pool) == 0


def test_a_stop_token_ends_it_and_is_kept(make_rig: Callable[..., Any]) -> None:
    rig = make_rig()
    sequence = rig.add("a", 6)
    assert rig.commit(rig.plan(), STOP) == [sequence]
    assert sequence.finish_reason is FinishReason.STOP
    assert sequence.generated_token_ids == [STOP]


def test_the_context_window_ends_it(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(max_model_len=16)
    sequence = rig.add("a", 14, max_tokens=100)
    rig.step()
    assert rig.commit(rig.plan()) == [sequence]
    assert sequence.num_tokens == 16


def test_a_small_pool_narrows_the_window(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(kv_blocks=3)
    assert rig.scheduler.max_model_len == 12
    sequence = rig.add("a", 8, max_tokens=100)
    for _ in range(4):
        rig.step()
    assert sequence.finish_reason is FinishReason.LENGTH
    assert sequence.num_tokens == 12


def test_chunks_a_long_prompt_beside_decodes(make_rig: Callable[..., Any]) -> None:
    rig = make_rig()
    rig.add("a", 4)
    rig.step()
    rig.add("b", 40)
    rig.add("c", 3)
    assert rig.step() == {"a": (4, 1, True), "b": (0, 15, False)}
    assert rig.step() == {"a": (5, 1, True), "b": (15, 15, False)}
    assert rig.step() == {"a": (6, 1, True), "b": (30, 10, True), "c": (0, 3, True)}
    assert rig.step() == {"a": (7, 1, True), "b": (40, 1, True), "c": (3, 1, True)}


def test_older_prefills_come_before_admission(make_rig: Callable[..., Any]) -> None:
    rig = make_rig()
    rig.add("a", 20)
    rig.add("b", 20)
    assert rig.step() == {"a": (0, 16, False)}
    assert rig.step() == {"a": (16, 4, True), "b": (0, 12, False)}
    assert rig.step() == {"a": (20, 1, True), "b": (12, 8, True)}


def test_the_batch_is_never_larger_than_allowed(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(max_batch_size=2)
    for name in "abc":
        rig.add(name, 2, max_tokens=2)
    assert list(rig.step()) == ["a", "b"]
    assert list(rig.step()) == ["a", "b"]
    assert list(rig.step()) == ["c"]


def test_the_head_of_the_queue_is_not_overtaken(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(kv_blocks=8)
    rig.add("a", 12, max_tokens=4)
    rig.step()
    rig.add("b", 24, max_tokens=4)  # 6 blocks and one to grow; 5 are free
    rig.add("c", 1, max_tokens=1)
    assert list(rig.step()) == ["a"]
    rig.scheduler.cancel(RequestId("a"))
    assert list(rig.step()) == ["b"]


def test_admission_leaves_a_block_for_each_that_grows(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(kv_blocks=4)
    rig.add("a", 4, max_tokens=5)  # computes at most 8 tokens, holds 1 block of 2
    rig.add("b", 8, max_tokens=1)  # 2 blocks, never more
    assert list(rig.step()) == ["a", "b"]
    rig = make_rig(kv_blocks=4)
    rig.add("a", 4, max_tokens=5)
    rig.add("b", 8, max_tokens=5)  # 2 blocks, later a third
    assert list(rig.step()) == ["a"]


def test_preempts_the_latest_and_computes_it_again(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(kv_blocks=8, prefix_cache=False)
    first = rig.add("a", 7, max_tokens=20)
    second = rig.add("b", 7, max_tokens=20)
    third = rig.add("c", 3, max_tokens=20)
    late = None
    while not third.num_preemptions:
        rig.step()
        late = late or rig.add("d", 2)
    assert rig.scheduler.preemptions == 1
    assert rig.scheduler.sequences == (first, second, third, late)
    assert third.status is SequenceStatus.WAITING
    assert (third.num_computed, third.block_table) == (0, [])
    kept = list(third.token_ids)
    assert third.num_generated > 0
    while not (second.is_finished or third.num_preemptions > 1 or third.block_table):
        rig.step()
    rig.scheduler.cancel(first.request_id)
    rig.scheduler.cancel(second.request_id)
    third_share = rig.step()["c"]
    assert third_share == (0, len(kept), True)
    assert third.token_ids == [*kept, 7]
    assert third.num_cached == 0


def test_a_preempted_sequence_finds_its_own_blocks_again(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(kv_blocks=6)
    first = rig.add("a", 3, max_tokens=20)
    second = rig.add("b", 9, max_tokens=20)
    while not second.num_preemptions:
        rig.step()
    assert rig.scheduler.waiting == 1
    tokens = second.num_tokens
    rig.scheduler.cancel(first.request_id)
    start, count, samples = rig.step()["b"]
    assert start >= 8
    assert (start + count, samples) == (tokens, True)
    assert second.num_cached == 0  # what it found is its own, computed for this request


def test_equal_prompts_share_full_blocks(make_rig: Callable[..., Any]) -> None:
    rig = make_rig()
    prompt = list(range(10))
    first = rig.add("a", prompt)
    rig.step()
    second = rig.add("b", prompt)
    assert rig.step()["b"] == (8, 2, True)
    assert second.block_table[:2] == first.block_table[:2]
    assert second.block_table[2] != first.block_table[2]
    assert (second.num_cached, second.usage.cached_tokens) == (8, 8)


def test_shared_blocks_count_once(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(kv_blocks=5)
    prompt = list(range(9))
    rig.add("a", prompt, max_tokens=3)
    rig.step()
    rig.add("b", prompt, max_tokens=3)  # 2 blocks shared, 1 of its own
    assert "b" in rig.step()
    assert used_blocks(rig.pool) == 4


def test_a_hit_on_the_last_free_blocks_is_not_counted_twice(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(kv_blocks=5)
    prompt = list(range(8))
    rig.add("a", prompt, max_tokens=1)
    rig.step()
    assert (rig.pool.num_cached, rig.pool.num_free) == (2, 5)
    rig.add("b", 9, max_tokens=1)
    rig.add("c", [*prompt, 1], max_tokens=1)  # needs 3 of the 2 left: its hits are among them
    assert list(rig.step()) == ["b"]
    assert rig.step() == {"c": (8, 1, True)}


@pytest.mark.parametrize(
    ("namespace", "prefix_cache", "start"), [("ns", True, 8), ("other", True, 0), ("ns", False, 0)]
)
def test_what_is_shared(
    make_rig: Callable[..., Any], namespace: str, prefix_cache: bool, start: int
) -> None:
    rig = make_rig(prefix_cache=prefix_cache)
    prompt = list(range(9))
    rig.add("a", prompt, max_tokens=1)
    rig.step()
    rig.add("b", prompt, namespace=namespace)
    assert rig.step()["b"][0] == start


def test_blocks_are_shared_only_once_computed(make_rig: Callable[..., Any]) -> None:
    rig = make_rig()
    prompt = list(range(30))
    rig.add("a", prompt)
    rig.plan()  # never committed
    rig.scheduler.cancel(RequestId("a"))
    rig.add("b", prompt)
    assert rig.step() == {"b": (0, 16, False)}


def test_generated_tokens_are_shared_too(make_rig: Callable[..., Any]) -> None:
    rig = make_rig()
    sequence = rig.add("a", list(range(1, 7)), max_tokens=8)
    while not sequence.is_finished:
        rig.step()
    rig.add("b", [*sequence.token_ids, 9])
    assert rig.step()["b"][0] == 12  # of 14 tokens 13 were computed


def test_resumed_tokens_are_prefilled_and_counted(make_rig: Callable[..., Any]) -> None:
    rig = make_rig()
    sequence = rig.add("a", 5, max_tokens=4, resumed=(7, 7))
    assert rig.step() == {"a": (0, 7, True)}
    plan = rig.plan()
    assert rig.commit(plan) == [sequence]
    assert sequence.generated_token_ids == [7, 7, 7, 7]


@pytest.mark.parametrize(
    ("max_tokens", "resumed", "reason"),
    [
        (0, (), FinishReason.LENGTH),
        (2, (7, 7), FinishReason.LENGTH),
        (9, (7, STOP), FinishReason.STOP),
    ],
)
@pytest.mark.parametrize("expire", [True, False], ids=["expire", "commit"])
def test_complete_as_it_came(
    make_rig: Callable[..., Any],
    max_tokens: int,
    resumed: tuple[int, ...],
    reason: FinishReason,
    expire: bool,
) -> None:
    rig = make_rig()
    sequence = rig.add("a", 5, max_tokens=max_tokens, resumed=resumed)
    ended = rig.scheduler.expire() if expire else rig.commit(rig.plan())
    assert ended == [sequence]
    assert sequence.finish_reason is reason
    assert sequence.generated_token_ids == list(resumed)
    assert rig.scheduler.schedule() is None


def test_deadlines_end_running_and_waiting(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(max_batch_size=1)
    running = rig.add("a", 3, deadline_at=1010.0)
    waiting = rig.add("b", 3, deadline_at=1005.0)
    patient = rig.add("c", 3, deadline_at=1011.0)
    rig.step()
    rig.clock.advance(4.0)
    assert rig.scheduler.expire() == []
    rig.clock.advance(1.0)
    assert rig.scheduler.expire() == [waiting]
    rig.clock.advance(5.0)
    plan = rig.plan()
    assert rig.commit(plan) == [running]
    assert running.generated_token_ids == [7, 7]  # the step's token is kept
    assert {running.finish_reason, waiting.finish_reason} == {FinishReason.DEADLINE}
    assert rig.scheduler.sequences == (patient,)
    assert used_blocks(rig.pool) == 0


def test_a_stop_token_counts_before_the_deadline(make_rig: Callable[..., Any]) -> None:
    rig = make_rig()
    sequence = rig.add("a", 3, deadline_at=1001.0)
    plan = rig.plan()
    rig.clock.advance(2.0)
    assert rig.commit(plan, STOP) == [sequence]
    assert sequence.finish_reason is FinishReason.STOP


def test_cancel_frees_at_once_wherever_it_is(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(max_batch_size=1)
    running = rig.add("a", 20)
    waiting = rig.add("b", 3)
    rig.step()
    assert rig.scheduler.cancel(RequestId("b")) is waiting
    assert used_blocks(rig.pool) == 5
    assert rig.scheduler.cancel(RequestId("a"), FinishReason.ERROR) is running
    assert used_blocks(rig.pool) == 0
    assert (waiting.finish_reason, running.finish_reason) == (
        FinishReason.CANCELLED,
        FinishReason.ERROR,
    )
    assert rig.scheduler.cancel(RequestId("a")) is None
    rig.scheduler.check_integrity()


def test_commit_ignores_what_was_cancelled_meanwhile(make_rig: Callable[..., Any]) -> None:
    rig = make_rig()
    gone = rig.add("a", 3)
    stays = rig.add("b", 3)
    plan = rig.plan()
    rig.scheduler.cancel(RequestId("a"))
    again = rig.add("a", 5)  # the id is free again; the new one is not in the plan
    assert rig.commit(plan) == []
    assert gone.generated_token_ids == []
    assert (stays.generated_token_ids, again.generated_token_ids) == ([7], [])


def test_a_plan_never_committed_is_scheduled_again(make_rig: Callable[..., Any]) -> None:
    rig = make_rig()
    rig.add("a", 4)
    rig.add("b", 20)
    failed = rig.plan()
    again = rig.plan()
    assert rig.shares(failed) == rig.shares(again) == {"a": (0, 4, True), "b": (0, 12, False)}
    with pytest.raises(IntegrityError, match="plan 1 of 2"):
        rig.commit(failed)
    rig.commit(again)
    with pytest.raises(IntegrityError, match="plan 2 of 2"):
        rig.commit(again)


def test_a_missing_token_changes_nothing(make_rig: Callable[..., Any]) -> None:
    rig = make_rig()
    sequence = rig.add("a", 3)
    rig.add("b", 3)
    plan = rig.plan()
    with pytest.raises(EngineError, match="no token for b"):
        rig.scheduler.commit(plan, {RequestId("a"): 7})
    assert (sequence.num_computed, sequence.num_generated) == (0, 0)
    assert rig.commit(plan) == []


class TestWholePrefill:
    def test_exceeds_the_budget_alone(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        rig.add("a", 2)
        rig.step()
        rig.add("b", 30, whole_prefill=True)
        rig.add("c", 3)
        assert rig.step() == {"a": (2, 1, True), "b": (0, 30, True)}
        assert "c" in rig.step()

    def test_waits_for_a_step_where_it_fits(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        rig.add("a", 20)
        rig.add("b", 14, whole_prefill=True)
        rig.add("c", 3)
        assert rig.step() == {"a": (0, 16, False)}
        assert rig.step() == {"a": (16, 4, True)}  # 12 tokens are left, and c does not overtake
        assert rig.step() == {"a": (20, 1, True), "b": (0, 14, True), "c": (0, 1, False)}

    def test_shares_a_step_where_it_fits(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        rig.add("a", 4)
        rig.add("b", 12, whole_prefill=True)
        assert rig.step() == {"a": (0, 4, True), "b": (0, 12, True)}

    def test_decodes_do_not_starve_it(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        rig.add("a", 2)
        rig.step()
        rig.add("b", 16, whole_prefill=True)
        assert rig.step() == {"a": (2, 1, True), "b": (0, 16, True)}

    def test_is_not_taken_from_the_cache(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        prompt = list(range(9))
        rig.add("a", prompt, max_tokens=1)
        rig.step()
        rig.add("b", prompt, whole_prefill=True)
        assert rig.step()["b"] == (0, 9, True)

    def test_stays_whole_after_a_failed_step(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        rig.add("a", 30, whole_prefill=True)
        rig.plan()
        assert rig.step() == {"a": (0, 30, True)}

    def test_what_was_resumed_may_be_chunked(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        rig.add("a", 20, resumed=(7,) * 5, whole_prefill=True)
        assert rig.step() == {"a": (0, 20, False)}
        assert rig.step() == {"a": (20, 5, True)}


def test_the_backlog_is_what_prompts_still_need(make_rig):
    rig = make_rig(max_batch_tokens=16, prefix_cache=False)
    rig.add("a", 20, tenant="acme")
    rig.add("b", 5, tenant="globex")
    rig.add("c", 3, resumed=(7, 7), tenant="globex")
    assert rig.scheduler.backlog() == {"acme": 20, "globex": 8}
    rig.step()
    assert rig.scheduler.backlog() == {"acme": 4, "globex": 8}
    rig.step()
    assert rig.scheduler.backlog() == {}
    rig.scheduler.cancel("a")
    assert rig.scheduler.backlog() == {}


def test_the_backlog_leaves_out_what_is_kept_of_a_preempted_row(
    make_rig: Callable[..., Any],
) -> None:
    rig = make_rig(max_batch_size=2)
    for index in range(2):
        rig.add(f"f{index}", [index] * 11, max_tokens=30, tenant="flood")
    for _ in range(2):
        rig.step()
    rig.add("q", 4, tenant="quiet")
    rig.step()
    assert [s.request_id for s in rig.scheduler.sequences] == ["f0", "q", "f1"]
    assert rig.scheduler.backlog() == {"flood": 3}
