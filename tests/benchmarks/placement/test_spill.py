"""Holds the pick to what it is worth where requests might leave replicas with free places."""

from dataclasses import replace

import pytest

from benchmarks.placement.picking.spill import (
    LOADS,
    RULES,
    SpillFigures,
    meets,
    spill_figures,
    spill_recipe,
)
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import SimulationSpec


def described(trace: str) -> SimulationSpec:
    return spill_recipe(trace, "fast")(1)


HOT_SET, PAIRS = (load.trace for load in LOADS)
SHORT_PAIRS = described(PAIRS.replace("400", "100"))


def test_no_request_leaves_a_replica_that_has_its_adapters_and_free_places() -> None:
    found = spill_figures(simulate(RULES["pick"](SHORT_PAIRS)))
    assert found.loads == 24  # each adapter once, though they just fit
    assert found.resident > 0.995
    assert spill_figures(simulate(RULES["least loaded"](SHORT_PAIRS))).resident < 0.8


def test_a_bound_on_counts_sends_requests_away() -> None:
    bounded, unlimited = (
        spill_figures(simulate(RULES[rule](SHORT_PAIRS)))
        for rule in ("bound by counts", "unlimited")
    )
    assert unlimited.loads == 24
    assert bounded.loads > 2 * unlimited.loads


def test_a_hot_set_that_moves_is_found_again() -> None:
    spec = described(HOT_SET.replace("600", "180"))
    assert spill_figures(simulate(RULES["pick"](spec))).resident > 0.95


def test_a_run_that_answers_not_all_has_no_figures() -> None:
    late = [replace(asked, deadline_s=0.2) for asked in SHORT_PAIRS.trace[-5:]]
    with pytest.raises(ValueError, match="has no answer"):
        spill_figures(simulate(replace(SHORT_PAIRS, trace=late)))


def figures(resident: float, wait: float) -> list[SpillFigures]:
    return [SpillFigures(resident + n / 1e4, wait + n / 1e5, 0.05, 0.6, 50) for n in range(4)]


def test_bounds_that_the_earlier_pick_meets_too_are_not_enough() -> None:
    earlier = figures(0.962, 0.018)
    assert meets(LOADS[0], figures(0.979, 0.015), earlier, 0.0)
    assert not meets(LOADS[0], earlier, earlier, 0.0)
    assert not meets(LOADS[0], figures(0.979, 0.018), earlier, 0.0)
    assert not meets(LOADS[0], figures(0.979, 0.015), earlier, 0.03)
