"""Slots are counted by members; needs no vLLM."""

from dataclasses import dataclass

import pytest
from vllm_weighted_lora.slot_budget import SlotBudget


@dataclass
class Request:
    lora_request: frozenset[str]


def running(*requests: str) -> list[Request]:
    return [Request(frozenset(names)) for names in requests]


@pytest.fixture
def budget() -> SlotBudget:
    return SlotBudget(3, lambda members: members)


def test_requests_that_share_members_fit(budget: SlotBudget) -> None:
    assert budget.fits_now(1, running("ab", "bc", "ca"), frozenset("abc"))
    assert not budget.fits_now(2, running("ab", "bc"), frozenset("d"))


def test_many_mixtures_of_few_adapters_fit(budget: SlotBudget) -> None:
    crowd = running(*(["abc"] * 100))
    assert budget.fits_now(1, crowd, frozenset("ab"))


def test_what_is_admitted_in_a_step_counts_for_the_next(budget: SlotBudget) -> None:
    now = running("a")
    assert budget.fits_now(1, now, frozenset("bc"))
    now += running("bc")
    assert not budget.fits_now(1, now, frozenset("d"))
    assert budget.fits_now(1, now, frozenset("a"))
    assert budget.fits_now(2, now[:1], frozenset("d"))


def test_resident_adapters_take_their_slots_always(budget: SlotBudget) -> None:
    budget.note_load("r")
    assert not budget.fits_now(1, running("a"), frozenset("bc"))
    assert budget.fits_now(1, running("a"), frozenset("br"))
    assert not budget.fits(frozenset("abc"))
    assert budget.fits(frozenset("abr"))


def test_a_load_within_a_step_counts(budget: SlotBudget) -> None:
    assert budget.fits_now(1, running("a"), frozenset("bc"))
    budget.note_load("r")
    assert not budget.fits_now(1, running("a"), frozenset("bc"))


def test_loads_are_refused_by_name(budget: SlotBudget) -> None:
    for name in "abc":
        budget.check_load(name, [], [])
        budget.note_load(name)
    with pytest.raises(ValueError, match=r"'d' does not fit: all 3 slots .* 'a', 'b', 'c'"):
        budget.check_load("d", [], [])
    with pytest.raises(ValueError, match="'a' is loaded already"):
        budget.check_load("a", [], [])


def test_a_load_waits_for_slots_of_requests(budget: SlotBudget) -> None:
    with pytest.raises(ValueError, match="running requests use the free slots"):
        budget.check_load("r", [frozenset("ab"), frozenset("c")], [])
    with pytest.raises(ValueError, match="a waiting request needs more slots"):
        budget.check_load("r", [], [frozenset("abc")])
    budget.check_load("r", [frozenset("ab")], [frozenset("bc"), frozenset("cd")])


def test_an_adapter_in_use_is_not_unloaded(budget: SlotBudget) -> None:
    budget.note_load("a")
    with pytest.raises(ValueError, match="'a' is in use by 2 requests"):
        budget.check_unload("a", [frozenset("a"), frozenset("ab"), frozenset("b")])
    with pytest.raises(ValueError, match="'b' is not loaded"):
        budget.check_unload("b", [])
    budget.check_unload("a", [frozenset("b")])
    budget.note_unload("a")
    assert budget.fits(frozenset("bcd"))


def test_each_load_has_a_number_of_its_own(budget: SlotBudget) -> None:
    budget.note_load("a")
    first = budget.resident["a"]
    budget.note_unload("a")
    budget.note_load("a")
    assert budget.resident["a"] != first
