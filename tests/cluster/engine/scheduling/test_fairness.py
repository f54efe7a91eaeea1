"""Checks whose turn it is, and who waits for whose blocks."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster.domain.ids import RequestId
from cluster.domain.request import FinishReason
from cluster.engine.scheduling.admission_order import MAX_PASSES
from cluster.errors import Overloaded
from cluster.expected_length import FIRST_GUESS, ExpectedLength


def admissions(rig: Any) -> Iterator[str]:
    """Yield ids in the order in which they enter the batch, until nothing is left."""
    seen: set[str] = set()
    while rig.scheduler.sequences:
        for name in rig.step():
            if name not in seen:
                seen.add(name)
                yield name


class TestTurns:
    def test_a_flood_does_not_keep_another_tenant_waiting(
        self, make_rig: Callable[..., Any]
    ) -> None:
        rig = make_rig(max_batch_size=1)
        for index in range(20):
            rig.add(f"f{index}", 4, tenant="flood")
        rig.add("q", 4, tenant="quiet")
        assert list(admissions(rig)).index("q") == 1

    def test_fifo_is_the_order_of_arrival(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig(max_batch_size=1, fairness="fifo")
        names = [f"{index}" for index in range(12)]
        for index, name in enumerate(names):
            rig.add(name, 4, tenant="stu"[index % 3], adapters="xyz"[index % 2])
        assert list(admissions(rig)) == names

    def test_more_adapters_give_a_tenant_no_larger_share(
        self, make_rig: Callable[..., Any]
    ) -> None:
        rig = make_rig(max_batch_size=1)
        for index in range(30):
            rig.add(f"w{index}", 4, tenant="wide", adapters="abcdefghij"[index % 10])
        for index in range(5):
            rig.add(f"n{index}", 4, tenant="narrow")
        first_ten = list(admissions(rig))[:10]
        assert sum(name[0] == "n" for name in first_ten) == 5

    def test_a_tenants_adapters_take_turns(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig(max_batch_size=1)
        for index in range(20):
            rig.add(f"batch{index}", 4, adapters="a")
        rig.add("chat0", 4, adapters="b")
        rig.add("chat1", 4, adapters="b")
        order = list(admissions(rig))
        assert (order.index("chat0"), order.index("chat1")) == (1, 3)

    def test_shares_are_tokens_not_requests(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig(max_batch_size=1, max_model_len=60, prefix_cache=False)
        for index in range(10):
            rig.add(f"l{index}", 46, max_tokens=4, tenant="long")
        for index in range(40):
            rig.add(f"s{index}", 6, max_tokens=4, tenant="short")
        order = list(admissions(rig))
        last_long = order.index("l5")
        assert 24 <= sum(name[0] == "s" for name in order[:last_long]) <= 36  # 10 against 50 tokens

    def test_cached_tokens_cost_nothing(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig(max_batch_size=1, max_batch_tokens=64, kv_blocks=64)
        prompt = list(range(100, 145))
        rig.add("warm", prompt, max_tokens=1, tenant="cached")
        rig.step()
        for index in range(8):
            rig.add(f"c{index}", prompt, max_tokens=1, tenant="cached")
            rig.add(f"u{index}", 45, max_tokens=1, tenant="uncached", namespace=f"{index}")
        first = list(admissions(rig))[:9]
        assert sum(name[0] == "c" for name in first) == 8

    def test_the_one_whose_turn_it_is_gets_its_blocks(self, make_rig: Callable[..., Any]) -> None:
        """No request passes it while it waits for blocks, newcomers of other tenants neither."""
        rig = make_rig(kv_blocks=8)
        running = rig.add("a", 12, max_tokens=12)
        rig.step()
        rig.add("big", 24, max_tokens=4, tenant="b")
        rig.step()
        for name in "cdefg":
            rig.add(name, 1, max_tokens=1, tenant=name)
        while not running.is_finished:
            assert list(rig.step()) == ["a"]
        assert next(iter(rig.step())) == "big"

    def test_preempted_sequences_come_before_all_others(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig(kv_blocks=8, prefix_cache=False)
        for name in "abc":
            rig.add(name, 7 if name != "c" else 3, max_tokens=20, tenant=name)
        third = rig.scheduler.sequences[2]
        rig.step()
        for name in "uvw":
            rig.add(name, 2, tenant="a")
        while not third.num_preemptions:
            assert third.block_table
            rig.step()
        later = list(admissions(rig))
        assert later.index("c") < min(later.index(name) for name in "uvw")

    def test_a_full_queue_takes_a_tenant_below_its_share(
        self, make_rig: Callable[..., Any]
    ) -> None:
        rig = make_rig(max_batch_size=1, max_queued=5)
        for index in range(6):
            rig.add(f"f{index}", 3, tenant="flood")
        with pytest.raises(Overloaded, match="6 requests wait on this replica, 6 of them this"):
            rig.add("f6", 3, tenant="flood")
        for index in range(3):
            rig.add(f"q{index}", 3, tenant="quiet")
        with pytest.raises(Overloaded, match="9 requests wait on this replica, 3 of them this"):
            rig.add("q3", 3, tenant="quiet")
        rig.add("r", 3, tenant="third")

    def test_a_full_queue_takes_a_heavier_tenant_up_to_its_weight(
        self, make_rig: Callable[..., Any]
    ) -> None:
        rig = make_rig(max_batch_size=1, max_queued=7)
        for index in range(8):
            rig.add(f"f{index}", 3, tenant="flood")
        for index in range(6):
            rig.add(f"h{index}", 3, tenant="heavy", weight=3.0)
        with pytest.raises(Overloaded, match="14 requests wait on this replica, 6 of them this"):
            rig.add("h6", 3, tenant="heavy", weight=3.0)
        rig.add("r", 3, tenant="light", weight=0.001)
        with pytest.raises(Overloaded, match="1 of them this"):
            rig.add("s", 3, tenant="light", weight=0.001)

    def test_a_withdrawn_sequence_was_never_there(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig(max_batch_size=1)
        rig.add("a", 3)
        rig.add("b", 3)
        rig.step()
        assert not rig.scheduler.withdraw(RequestId("a"))
        assert rig.scheduler.withdraw(RequestId("b"))
        assert not rig.scheduler.withdraw(RequestId("b"))
        rig.scheduler.check_integrity()
        assert rig.scheduler.waiting == 0
        rig.add("b", 5)


class TestEqualPrompts:
    def test_a_burst_is_prefilled_once(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig(max_batch_tokens=64, max_batch_size=8)
        prompt = list(range(100, 133))
        names = [f"{index}" for index in range(8)]
        for name in names:
            rig.add(name, prompt)
        assert rig.step() == {"0": (0, 33, True)}
        shares = rig.step()
        assert {name: shares[name] for name in names[1:]} == dict.fromkeys(names[1:], (32, 1, True))

    def test_others_pass_meanwhile(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig(max_batch_tokens=64)
        rig.add("a", range(33))
        rig.add("b", range(33))
        rig.add("other", 5, tenant="u")
        assert list(rig.step()) == ["a", "other"]
        assert rig.step()["b"] == (32, 1, True)

    def test_waits_for_the_common_part_only(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig()
        rig.add("a", range(40))
        rig.step()
        rig.add("b", [*range(22), 9, 9, 9, 9])
        assert "b" not in rig.step()  # a's tokens up to 32 are computed in this step
        shares = rig.step()
        assert shares["a"] == (32, 8, True)
        assert shares["b"] == (20, 6, True)

    @pytest.mark.parametrize("namespaces", [("x", "y"), ("x", "x")])
    def test_never_across_namespaces(
        self, make_rig: Callable[..., Any], namespaces: tuple[str, str]
    ) -> None:
        rig = make_rig(max_batch_tokens=64)
        rig.add("a", range(20), namespace=namespaces[0])
        rig.add("b", range(20), namespace=namespaces[1])
        assert ("b" in rig.step()) is (namespaces[0] != namespaces[1])

    def test_not_without_the_cache(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig(max_batch_tokens=64, prefix_cache=False)
        rig.add("a", range(20))
        rig.add("b", range(20))
        assert list(rig.step()) == ["a", "b"]

    @pytest.mark.parametrize("reason", [FinishReason.CANCELLED, FinishReason.ERROR])
    def test_never_for_one_that_is_gone(
        self, make_rig: Callable[..., Any], reason: FinishReason
    ) -> None:
        rig = make_rig()
        rig.add("a", range(40))
        rig.add("b", range(40))
        rig.step()
        rig.scheduler.cancel(RequestId("a"), reason)
        assert rig.step() == {"b": (16, 16, False)}  # what was published is kept

    def test_never_for_one_that_was_preempted(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig(kv_blocks=12, max_batch_tokens=16)
        first = rig.add("a", 7, max_tokens=24)
        rig.step()
        second = rig.add("b", range(25), max_tokens=2)
        rig.step()
        third = rig.add("c", range(25), max_tokens=2, tenant="u")
        while rig.scheduler.sequences:
            rig.step()
        assert all(s.finish_reason is FinishReason.LENGTH for s in (first, second, third))

    def test_so_many_may_pass_and_no_more(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig(max_batch_size=64, max_batch_tokens=256, kv_blocks=256)
        rig.add("a", range(33), tenant="s")
        rig.add("b", range(33), tenant="t")
        others = [f"{index}" for index in range(MAX_PASSES + 8)]
        for name in others:
            rig.add(name, 1, tenant="u", max_tokens=1)
        order = list(rig.step())
        # Released after so many, it takes its turn behind the one that is first by then.
        assert order.index("b") == 1 + MAX_PASSES + 1
        assert set(order) == {"a", "b", *others}


class TestExpectedLength:
    def test_learns_slowly_and_keeps_to_the_limit(self) -> None:
        lengths = ExpectedLength()
        assert lengths.expect("k", 1000) == FIRST_GUESS
        assert lengths.expect("k", 10) == 10
        for _ in range(100):
            lengths.observe("k", 200, 1000)
        assert 190 <= lengths.expect("k", 1000) <= 200
        assert lengths.expect("other", 1000) == FIRST_GUESS

    def test_a_limit_below_the_average_teaches_nothing(self) -> None:
        lengths = ExpectedLength()
        lengths.observe("k", 5, 5)
        assert lengths.expect("k", 1000) == FIRST_GUESS
        lengths.observe("k", 5, 1000)
        assert lengths.expect("k", 1000) < FIRST_GUESS
        lengths.observe("k", 900, 900)
        assert lengths.expect("k", 1000) > FIRST_GUESS
