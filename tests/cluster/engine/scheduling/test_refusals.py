"""Checks what the scheduler refuses, and what its integrity check finds."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster.domain.ids import RequestId
from cluster.domain.request import FinishReason
from cluster.engine.sequence import SequenceStatus
from cluster.errors import (
    ConfigError,
    IntegrityError,
    Overloaded,
    PromptTooLong,
    RequestError,
)


class TestRefusals:
    def test_a_prompt_beyond_the_pool(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig(kv_blocks=3)
        with pytest.raises(PromptTooLong, match="context window is 12"):
            rig.add("a", 12)
        assert rig.scheduler.sequences == ()

    def test_a_sequence_built_for_a_larger_window(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig(kv_blocks=3)
        roomy = make_rig()
        sequence = roomy.add("a", 8, max_tokens=6)
        with pytest.raises(PromptTooLong, match="need 4 KV blocks of 4 tokens; the replica has 3"):
            rig.scheduler.add_sequence(sequence)
        fits = roomy.add("b", 8, max_tokens=5)  # the last token is never computed
        rig.scheduler.add_sequence(fits)
        for _ in range(5):
            rig.step()
        assert (fits.finish_reason, fits.num_tokens) == (FinishReason.LENGTH, 13)
        assert fits.num_preemptions == 0

    def test_a_resumed_sequence_beyond_the_pool(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig(kv_blocks=3)
        with pytest.raises(PromptTooLong, match="need 4 KV blocks"):
            rig.add("a", 8, max_tokens=5, resumed=(7,) * 5)

    def test_an_id_that_is_live(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        rig.add("a", 3)
        with pytest.raises(RequestError, match="already being served") as caught:
            rig.add("a", 3)
        assert caught.value.param == "request_id"

    @pytest.mark.parametrize(("max_queued", "accepted"), [(0, 2), (3, 5)])
    def test_a_full_queue(
        self, make_rig: Callable[..., Any], max_queued: int, accepted: int
    ) -> None:
        rig = make_rig(max_batch_size=2, max_queued=max_queued)
        for index in range(accepted):
            rig.add(f"{index}", 3)
        with pytest.raises(Overloaded, match=f"{max_queued} may wait besides 2 open places"):
            rig.add("x", 3)
        rig.step()
        with pytest.raises(Overloaded, match="besides 0 open places"):
            rig.add("x", 3)
        rig.scheduler.cancel(RequestId("0"))
        rig.add("x", 3)

    def test_a_budget_without_room_for_the_decodes(self, make_rig: Callable[..., Any]) -> None:
        with pytest.raises(ConfigError, match=r"max_batch_tokens is 16, .* \(17\)"):
            make_rig(max_batch_size=17)


class TestIntegrity:
    def test_a_leaked_block(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        sequence = rig.add("a", 6)
        rig.step()
        block = sequence.block_table.pop()
        with pytest.raises(IntegrityError, match=f"block {block} counts 1 holders, has 0"):
            rig.scheduler.check_integrity()

    def test_a_lost_sequence(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        rig.add("a", 6)
        rig.step()
        rig.scheduler._by_id.clear()
        with pytest.raises(IntegrityError, match="1 sequences in queues, 0 known by id"):
            rig.scheduler.check_integrity()

    def test_a_sequence_lost_while_it_waits(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        rig.add("b", 6)
        rig.scheduler._order._queue._tenants[rig.add("a", 6).request.tenant].queues.popitem()
        with pytest.raises(IntegrityError, match="0 sequences in queues, 2 counted"):
            rig.scheduler.check_integrity()

    def test_a_batch_out_of_order(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        rig.add("a", 6)
        rig.add("b", 6)
        rig.step()
        rig.scheduler._batch._running.reverse()
        with pytest.raises(IntegrityError, match=r"in the order of admissions \[1, 0\]"):
            rig.scheduler.check_integrity()

    def test_a_pending_block_that_nobody_computes(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        rig.add("a", 20)
        rig.plan()
        rig.scheduler._prefixes._pending.announce(RequestId("b"), ["key"])
        with pytest.raises(IntegrityError, match="6 blocks are pending, 1 without a sequence"):
            rig.scheduler.check_integrity()

    def test_tokens_without_blocks(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        sequence = rig.add("a", 6)
        rig.step()
        sequence.num_computed = 9
        with pytest.raises(IntegrityError, match="with 2 blocks, expected at least 3"):
            rig.scheduler.check_integrity()

    def test_a_status_that_does_not_match_the_queue(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        rig.add("a", 6).status = SequenceStatus.RUNNING
        with pytest.raises(IntegrityError, match="waits as running"):
            rig.scheduler.check_integrity()

    def test_progress_that_the_plan_does_not_know(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        sequence = rig.add("a", 20)
        plan = rig.plan()
        sequence.num_computed = 4
        with pytest.raises(IntegrityError, match="has 4 tokens computed, the plan starts at 0"):
            rig.commit(plan)
