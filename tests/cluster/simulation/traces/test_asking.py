"""Tenants and sets are chosen as their rules say."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.simulation.traces.asking import (
    AdapterNames,
    BaseOnly,
    FixedSets,
    InTurn,
    Mixtures,
    MovingHotSet,
    OneByPopularity,
    WideningSet,
)
from cluster.simulation.traces.popularity import Popularity, uniform, zipf


def number(name: str) -> int:
    return int(name[1:])


def test_an_adapter_has_one_tenant() -> None:
    rule, rng = OneByPopularity(zipf(10, 1.0), AdapterNames(tenants=3)), Random(1)
    asked = {rule.ask(rng, 0.0) for _ in range(500)}
    assert len(asked) == 10
    assert {f"tenant-{number(one.adapters[0]) % 3}" == one.tenant for one in asked} == {True}


def test_ranks_rotate_by_the_shift() -> None:
    only_first = Popularity([1, 0, 0, 0, 0])
    rule, rng = OneByPopularity(only_first, rotate_s=10.0, shift=2), Random(1)
    found = [number(rule.ask(rng, at).adapters[0]) for at in (0, 9.9, 10, 20, 30, 55)]
    assert found == [0, 0, 2, 4, 1, 0]


@given(
    total=st.integers(1, 12),
    block=st.integers(1, 5),
    within=st.floats(0, 1),
    sizes=st.lists(st.floats(0.01, 1), min_size=1, max_size=5).map(tuple),
    seed=st.integers(0, 99),
)
def test_mixtures_have_distinct_members_and_never_more_than_there_are(
    total: int, block: int, within: float, sizes: tuple[float, ...], seed: int
) -> None:
    rule = Mixtures(OneByPopularity(zipf(total, 1.0)), sizes, block, within)
    rng = Random(seed)
    for _ in range(20):
        adapters = rule.ask(rng, 0.0).adapters
        assert list(adapters) == sorted(set(adapters))
        assert 1 <= len(adapters) <= min(total, len(sizes))


def test_mixtures_have_the_sizes_and_blocks_of_the_model() -> None:
    rule = Mixtures(OneByPopularity(uniform(40)), (0.5, 0.5), block=4, within=0.9)
    rng = Random(3)
    found = [rule.ask(rng, 0.0).adapters for _ in range(8000)]
    pairs = [adapters for adapters in found if len(adapters) == 2]
    assert len(pairs) / len(found) == pytest.approx(0.5, abs=0.025)
    inside = sum(number(a) // 4 == number(b) // 4 for a, b in pairs)
    # Some of those from all adapters are of the same block by accident.
    assert inside / len(pairs) == pytest.approx(0.9 + 0.1 * 3 / 39, abs=0.02)


def test_fixed_sets_are_asked_whole() -> None:
    rule, rng = FixedSets(((0, 1), (2, 3)), Popularity([3, 1])), Random(2)
    counts = Counter(rule.ask(rng, 0.0).adapters for _ in range(4000))
    assert counts.keys() == {("a0000", "a0001"), ("a0002", "a0003")}
    assert counts["a0000", "a0001"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_a_hot_set_moves_on_and_comes_back() -> None:
    rule, rng = MovingHotSet(total=6, hot=2, move_s=60.0), Random(1)

    def asked(at: float) -> set[int]:
        return {number(rule.ask(rng, at).adapters[0]) for _ in range(50)}

    assert [asked(at) for at in (0, 59, 60, 120, 180)] == [{0, 1}, {0, 1}, {2, 3}, {4, 5}, {0, 1}]


def test_a_widening_set_grows_in_steps_and_stays() -> None:
    rule, rng = WideningSet((2, 4, 8), 100.0), Random(1)

    def asked(at: float) -> int:
        return len({rule.ask(rng, at).adapters for _ in range(200)})

    assert [asked(at) for at in (0, 99, 100, 250, 9000)] == [2, 2, 4, 8, 8]


def test_adapters_in_turn_come_again_after_all_others() -> None:
    rule, rng = InTurn(3, AdapterNames(1, "cold", "loud")), Random(1)
    found = [rule.ask(rng, 0.0) for _ in range(7)]
    assert [one.adapters for one in found[:3]] == [("cold0000",), ("cold0001",), ("cold0002",)]
    assert found[3:6] == found[:3]
    assert {one.tenant for one in found} == {"loud-0"}


def test_the_base_alone_has_an_empty_set() -> None:
    rule, rng = BaseOnly(AdapterNames(tenants=2)), Random(1)
    found = {rule.ask(rng, 0.0) for _ in range(50)}
    assert found == {("tenant-0", ()), ("tenant-1", ())}
