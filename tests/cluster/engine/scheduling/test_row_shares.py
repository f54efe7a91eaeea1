"""Checks how tenants share the rows of a full batch."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from cluster.domain.ids import RequestId
from cluster.engine.scheduling.admission_order import AdmissionOrder
from cluster.engine.scheduling.row_shares import RECOMPUTED_PART
from cluster.engine.sequence import EngineSequence

ROWS = 8


@pytest.fixture
def make_full(make_rig: Callable[..., Any]) -> Callable[..., Any]:
    """``make_full(**config)`` is a batch full of one tenant's long answers, with more waiting."""

    def build(*, count: int = 3 * ROWS, weight: float = 1.0, **config: object) -> Any:
        defaults = {
            "max_batch_size": ROWS,
            "max_batch_tokens": 64,
            "kv_blocks": 512,
            "max_model_len": 256,
        }
        rig = make_rig(**{**defaults, **config})
        for index in range(count):
            rig.add(f"f{index}", own(index), max_tokens=100, tenant="flood", weight=weight)
        for _ in range(20):
            rig.step()
        return rig

    return build


def own(index: int, length: int = 6) -> list[int]:
    """Return a prompt that has nothing in common with another index's."""
    return [10_000 + index] * length


def rows(rig: Any) -> Counter[str]:
    running = rig.scheduler.sequences[: rig.scheduler.running]
    return Counter(str(sequence.request.tenant) for sequence in running)


def test_a_newcomer_gets_a_row_at_once(make_full: Callable[..., Any]) -> None:
    rig = make_full()
    rig.add("q", own(99), max_tokens=4, tenant="quiet")
    shares = rig.step()
    assert shares["q"] == (0, 6, True)
    assert rows(rig) == {"flood": ROWS - 1, "quiet": 1}
    assert rig.scheduler.preemptions == 1


def test_the_youngest_row_yields_and_comes_back_first(make_full: Callable[..., Any]) -> None:
    rig = make_full()
    youngest: EngineSequence = rig.scheduler.sequences[ROWS - 1]
    tokens = youngest.num_tokens
    rig.add("q", own(99), max_tokens=3, tenant="quiet")
    rig.step()
    assert (youngest.num_preemptions, youngest.num_tokens) == (1, tokens)
    rig.step()
    rig.step()  # the newcomer ends
    start, count, samples = rig.step()[youngest.request_id]
    assert samples
    assert start + count == tokens
    assert count <= rig.config.block_size  # the rest was kept
    assert youngest.num_preemptions == 1


def test_each_row_yields_once_before_one_does_twice(make_full: Callable[..., Any]) -> None:
    rig = make_full(count=ROWS)
    for index in range(ROWS):
        rig.add(f"q{index}", own(100 + index), max_tokens=2, tenant="quiet")
        for _ in range(8):
            rig.step()
    sequences = [s for s in rig.scheduler.sequences if s.request.tenant == "flood"]
    assert [sequence.num_preemptions for sequence in sequences] == [1] * ROWS


def test_alone_nobody_yields(make_full: Callable[..., Any]) -> None:
    rig = make_full()
    for _ in range(60):
        rig.step()
    assert rig.scheduler.preemptions == 0


def test_first_come_first_served_never_yields(make_full: Callable[..., Any]) -> None:
    rig = make_full(fairness="fifo")
    rig.add("q", own(99), max_tokens=4, tenant="quiet")
    assert "q" not in rig.step()
    assert rig.scheduler.preemptions == 0


@pytest.mark.parametrize(("weight", "expected"), [(1.0, 4), (3.0, 6), (1 / 3, 2)])
def test_rows_follow_weights(make_full: Callable[..., Any], weight: float, expected: int) -> None:
    rig = make_full(count=60)
    for index in range(40):
        rig.add(f"q{index}", own(100 + index), max_tokens=100, tenant="other", weight=weight)
    for _ in range(130):
        rig.step()
    assert rows(rig) == {"other": expected, "flood": ROWS - expected}


def test_a_new_weight_is_in_force_with_the_next_request(make_full: Callable[..., Any]) -> None:
    rig = make_full(count=60)
    for index in range(40):
        rig.add(f"q{index}", own(100 + index), max_tokens=100, tenant="other")
    for _ in range(130):
        rig.step()
    assert rows(rig)["other"] == 4
    rig.add("q", own(98), tenant="other", weight=3.0)
    for _ in range(110):
        rig.step()
    assert rows(rig)["other"] == 6


def test_many_tenants_get_one_row_each_and_keep_it(make_full: Callable[..., Any]) -> None:
    rig = make_full()
    for index in range(2 * ROWS):
        rig.add(f"q{index}", own(100 + index), max_tokens=100, tenant=f"t{index}")
    for _ in range(60):
        rig.step()
    assert set(rows(rig).values()) == {1}
    assert rig.scheduler.preemptions == ROWS - 1


class TestUnusedCapacity:
    """Asserts that it costs nothing to use what others leave."""

    def test_whoever_was_alone_gets_a_row_at_once(self, make_full: Callable[..., Any]) -> None:
        rig = make_full(count=ROWS)
        while rig.scheduler.sequences:
            rig.step()
        for index in range(3 * ROWS):
            rig.add(f"q{index}", own(100 + index), max_tokens=100, tenant="quiet")
        for _ in range(10):
            rig.step()
        rig.add("f", own(99), max_tokens=4, tenant="flood")
        assert "f" in rig.step()

    def test_one_that_asks_for_little_holds_up_nobody(self, make_full: Callable[..., Any]) -> None:
        rig = make_full(count=40)
        rig.add("little", own(98), max_tokens=240, tenant="quiet")
        for index in range(40):
            rig.add(f"o{index}", own(100 + index), max_tokens=100, tenant="other")
        for _ in range(150):
            rig.step()
        assert rows(rig)["quiet"] == 1
        for sequence in rig.scheduler.sequences:
            if sequence.request.tenant == "other":
                rig.scheduler.cancel(sequence.request_id)
        rig.step()
        rig.add("o", own(99), max_tokens=4, tenant="other")
        assert "o" in rig.step()

    def test_what_was_served_counts_at_its_weight(self, make_full: Callable[..., Any]) -> None:
        rig = make_full(count=40)
        for index in range(40):
            rig.add(f"o{index}", own(100 + index), max_tokens=100, tenant="other")
        for _ in range(100):
            rig.step()
        for sequence in rig.scheduler.sequences:
            if sequence.request.tenant == "other":
                rig.scheduler.cancel(sequence.request_id)
        rig.step()
        rig.add("o", own(99), max_tokens=4, tenant="other", weight=0.1)
        assert "o" in rig.step()


def test_tokens_count_once_however_often_they_are_computed(
    make_rig: Callable[..., Any],
) -> None:
    rig = make_rig(max_batch_size=8)
    order = AdmissionOrder(rig.config)
    sequences = {}
    for name in ("again", "once"):
        for index in range(8):
            made = rig.add(f"{name}{index}", 2, tenant=name)
            order.append(made)
            sequences[made.request_id] = made
    for name in ("again0", "once0"):
        assert order.next() is sequences[name]
        order.admit(sequences[name], 10, 0)
    order.count_step([(sequences["again0"], 0, 100), (sequences["once0"], 0, 100)])
    order.count_step([(sequences["again0"], 0, 90), (sequences["once0"], 100, 110)])
    order.count_step([(sequences["again0"], 90, 102)])
    assert order.next() is sequences["again1"]


def test_blocks_that_a_row_loses_while_it_waits_make_no_debt(
    make_rig: Callable[..., Any],
) -> None:
    burst = 64
    rig = make_rig(max_batch_size=ROWS, max_batch_tokens=burst, kv_blocks=455, max_model_len=320)
    for index in range(2 * ROWS):
        rig.add(f"f{index}", own(index, 200), max_tokens=100, tenant="flood")
    for _ in range(30):
        rig.step()
    assert rows(rig) == {"flood": ROWS}
    rig.add("q", own(99, 180), max_tokens=2, tenant="quiet")
    assert f"f{ROWS - 1}" not in rig.step()
    while (part := rig.step().get(f"f{ROWS - 1}")) is None:
        pass
    assert part[0] + 2 * burst <= 200  # it lost more than may be computed again at once
    rig.add("t", own(98), max_tokens=4, tenant="third")
    assert "t" in rig.step() | rig.step()  # the first one has room for the row's own prompt only


def test_another_tenant_yields_where_the_first_cannot(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(max_batch_size=ROWS, max_batch_tokens=64, kv_blocks=512, max_model_len=256)
    for index in range(5):
        rig.add(f"w{index}", own(index), max_tokens=90, tenant="whole", whole_prefill=True)
    for index in range(3):
        rig.add(f"f{index}", own(10 + index), max_tokens=90, tenant="flood")
    rig.step()
    assert rows(rig) == {"whole": 5, "flood": 3}
    rig.add("q", own(99), max_tokens=4, tenant="quiet")
    assert "q" in rig.step()
    assert rows(rig) == {"whole": 5, "flood": 2, "quiet": 1}


def test_a_claim_without_blocks_does_not_hold_up_the_next_one(
    make_rig: Callable[..., Any],
) -> None:
    rig = make_rig(max_batch_size=ROWS, max_batch_tokens=64, kv_blocks=96, max_model_len=256)
    rig.add("h", own(50), max_tokens=100, tenant="heavy", weight=4.0)
    rig.step()
    for index in range(ROWS - 1):
        rig.add(f"f{index}", own(index), max_tokens=100, tenant="flood")
    for _ in range(20):
        rig.step()
    rig.add("large", own(97, 200), max_tokens=4, tenant="heavy", weight=4.0)
    rig.step()
    assert rows(rig) == {"heavy": 1, "flood": ROWS - 1}
    rig.add("q", own(99), max_tokens=4, tenant="quiet")
    assert "q" in rig.step()


def test_long_prompts_claim_no_more_than_their_tokens(make_full: Callable[..., Any]) -> None:
    rig = make_full(count=200, kv_blocks=2048)
    tokens: Counter[str] = Counter()
    for index in range(400):
        if index % 4 == 0:
            rig.add(f"q{index}", own(1000 + index, 60), max_tokens=1, tenant="reader")
        plan = rig.plan()
        for item in plan.scheduled:
            tokens[str(item.sequence.request.tenant)] += item.count
        rig.commit(plan)
    assert 0.35 <= tokens["reader"] / tokens.total() <= 0.6


def test_what_is_computed_again_stays_within_its_part(make_full: Callable[..., Any]) -> None:
    """Without a prefix cache each row that yields is computed again as a whole."""
    rig = make_full(count=60, prefix_cache=False, max_batch_tokens=16)
    computed = recomputed = 0
    furthest: dict[RequestId, int] = {}
    for index in range(600):
        rig.add(f"q{index}", own(1000 + index, 2), max_tokens=2, tenant=f"t{index % 3}")
        plan = rig.plan()
        for item in plan.scheduled:
            known = furthest.get(item.sequence.request_id, 0)
            recomputed += max(0, min(item.end, known) - item.start)
            furthest[item.sequence.request_id] = max(known, item.end)
            computed += item.count
        rig.commit(plan)
    assert rig.scheduler.preemptions > 1
    assert recomputed <= computed / RECOMPUTED_PART + 16 + 106


def test_a_row_without_its_adapters_does_not_yield(make_full: Callable[..., Any]) -> None:
    rig = make_full(count=ROWS)
    for sequence in rig.scheduler.sequences:
        rig.scheduler.reroute(sequence.request_id, "other", ((1, 1.0),), 0)
    rig.step()
    rig.step()
    for sequence in rig.scheduler.sequences:
        start = sequence.spans[-1].start - sequence.prompt_len
        assert rig.scheduler.release_before(sequence.request_id, start)
    held = [sequence.is_recomputable for sequence in rig.scheduler.sequences]
    rig.add("q", own(99), max_tokens=4, tenant="quiet")
    rig.step()
    assert rig.scheduler.take_returned() == []
    assert rig.scheduler.preemptions == any(held)


class TestBlocks:
    """Long prompts hold most KV blocks, while rows are free."""

    HELD = 8  # rows

    @pytest.fixture
    def make_held(self, make_rig: Callable[..., Any]) -> Callable[..., Any]:
        """``make_held(**config)`` is a pool with no room for a ninth long prompt of a tenant."""

        def build(**config: object) -> Any:
            defaults = {
                "block_size": 16,
                "max_batch_size": 16,
                "max_batch_tokens": 128,
                "kv_blocks": self.HELD * 7 + 12,
                "max_model_len": 512,
            }
            rig = make_rig(**{**defaults, **config})
            for index in range(16):
                rig.add(f"f{index}", own(index, 100), max_tokens=28, tenant="flood")
            for _ in range(10):
                rig.step()
            assert rows(rig) == {"flood": self.HELD}
            return rig

        return build

    def test_a_newcomer_gets_blocks_at_once(self, make_held: Callable[..., Any]) -> None:
        rig = make_held()
        rig.add("q", own(99, 70), max_tokens=4, tenant="quiet")
        assert rig.step()["q"] == (0, 70, True)
        assert rows(rig) == {"flood": self.HELD - 1, "quiet": 1}
        assert rig.scheduler.preemptions == 1

    def test_a_row_that_yielded_keeps_what_is_not_needed(
        self, make_held: Callable[..., Any]
    ) -> None:
        rig = make_held()
        youngest: EngineSequence = rig.scheduler.sequences[self.HELD - 1]
        rig.add("q", own(99, 70), max_tokens=2, tenant="quiet")
        rig.step()
        tokens = youngest.num_tokens
        rig.step()  # the newcomer ends
        start, count, _ = rig.step()[youngest.request_id]
        assert start + count == tokens
        assert count <= rig.config.block_size

    def test_as_many_rows_yield_as_the_newcomer_needs(self, make_held: Callable[..., Any]) -> None:
        rig = make_held()
        rig.add("q", own(99, 200), max_tokens=4, tenant="quiet")
        rig.step()
        assert rows(rig) == {"flood": self.HELD - 2, "quiet": 1}

    def test_one_that_needs_more_than_its_share_waits(self, make_held: Callable[..., Any]) -> None:
        rig = make_held()
        rig.add("q", own(99, 70), max_tokens=4, tenant="quiet", weight=0.01)
        rig.step()
        assert rig.scheduler.preemptions == 0

    def test_what_others_may_grow_by_is_not_in_its_share(
        self, make_rig: Callable[..., Any]
    ) -> None:
        rig = make_rig(max_batch_size=16, max_batch_tokens=128, kv_blocks=64)
        for index in range(16):
            rig.add(f"f{index}", own(index, 16), max_tokens=30, tenant="flood")
        for _ in range(4):
            rig.step()
        assert rows(rig) == {"flood": 11}
        for index in range(5):
            rig.add(f"q{index}", own(100 + index, 4), max_tokens=4, tenant=f"t{index}")
        assert "q0" in rig.step()

    def test_a_tenant_with_a_row_claims_no_more_blocks(self, make_held: Callable[..., Any]) -> None:
        rig = make_held()
        for index in range(4):
            rig.add(f"q{index}", own(100 + index, 70), max_tokens=16, tenant="quiet")
        for _ in range(5):
            rig.step()
        assert rig.scheduler.preemptions == 1

    def test_a_small_one_passes_only_tenants_with_rows(self, make_held: Callable[..., Any]) -> None:
        rig = make_held()
        rig.add("q", own(99, 16), max_tokens=4, tenant="quiet")
        assert rig.step()["q"] == (0, 16, True)
        rig.add("large", own(98, 400), max_tokens=4, tenant="reader")
        rig.step()
        rig.add("s", own(97, 16), max_tokens=4, tenant="third")
        assert "s" not in rig.step()
        assert rig.scheduler.preemptions == 0

    def test_a_large_one_gets_its_turn_all_the_same(self, make_held: Callable[..., Any]) -> None:
        rig = make_held()
        large = rig.add("large", own(98, 400), max_tokens=4, tenant="reader")
        for index in range(400):
            rig.add(f"q{index}", own(100 + index, 16), max_tokens=4, tenant="quiet")
            rig.step()
            if large.is_finished:
                break
        assert large.is_finished

    def test_rows_of_a_tenant_above_its_share_go_first(self, make_rig: Callable[..., Any]) -> None:
        rig = make_rig(max_batch_size=8, max_batch_tokens=64, kv_blocks=18)
        for index in range(3):
            rig.add(f"f{index}", own(index, 12), max_tokens=24, tenant="flood")
        rig.step()
        rig.add("q", own(99, 4), max_tokens=24, tenant="quiet")
        rig.step()
        assert rows(rig) == {"flood": 3, "quiet": 1}
        while not rig.scheduler.preemptions:
            rig.step()
        assert [one.request_id for one in rig.scheduler.newly_preempted] == ["f2"]

    def test_first_come_first_served_gives_no_blocks_away(
        self, make_held: Callable[..., Any]
    ) -> None:
        rig = make_held(fairness="fifo")
        rig.add("q", own(99, 70), max_tokens=4, tenant="quiet")
        assert "q" not in rig.step()
        assert rig.scheduler.preemptions == 0
