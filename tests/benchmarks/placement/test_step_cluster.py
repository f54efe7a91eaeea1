"""Holds the pick to what it is worth, in a small cluster with a virtual clock."""

import random
import statistics

from benchmarks.placement.choosers import PickChooser, RandomChooser
from benchmarks.placement.spill_loads import moving_hot_set, pairs
from benchmarks.placement.step_cluster import Arrival, Request, StepCluster
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.cost.model import CostModel, LoadCost, StepCost

QUIET, GREEDY = TenantId("acme"), TenantId("globex")
MODEL = CostModel(
    step=StepCost(0.022, 0.0008, 0.001, 0.0, 0.0, 0.0),
    host_load=LoadCost(0.03, 0.0),
    disk_load=LoadCost(0.03, 0.0),
)


def resident(served: list[Request]) -> float:
    return statistics.mean(request.whole for request in served)


def test_no_request_leaves_a_replica_that_has_its_adapters_and_free_places() -> None:
    load = pairs(1, seconds=100.0)
    cluster = StepCluster(PickChooser(1))
    served = cluster.serve(load)
    assert len(served) == len(load)
    assert cluster.loads == 24  # each adapter once, though they just fit
    assert resident(served) > 0.95
    assert resident(StepCluster(RandomChooser(1)).serve(load)) < 0.5


def test_a_hot_set_that_moves_is_found_again() -> None:
    served = StepCluster(PickChooser(2)).serve(moving_hot_set(2, seconds=180.0))
    assert resident(served) > 0.95


def arrivals(rate: float) -> list[Arrival]:
    """Return a quiet tenant's requests, and another's for hundreds of adapters in turn."""
    rng = random.Random(3)
    found, at = [], 0.0
    while (at := at + rng.expovariate(1.5)) < 200:
        found.append(Arrival(at, QUIET, (AdapterDigest("hot"),), 32, 16))
    at, number = 0.0, 0
    while rate and (at := at + rng.expovariate(rate)) < 200:
        number += 1
        cold = AdapterDigest(f"cold-{number % 500:03d}")
        found.append(Arrival(at, GREEDY, (cold,), 32, 16))
    return sorted(found, key=lambda arrival: arrival.at)


def test_a_greedy_tenant_hardly_slows_a_quiet_one() -> None:
    def median(rate: float) -> float:
        cluster = StepCluster(PickChooser(3, MODEL), replicas=2, slots=16, model=MODEL)
        served = cluster.serve(arrivals(rate))
        return statistics.median(
            (r.first or 0.0) - r.arrival.at for r in served if r.arrival.tenant == QUIET
        )

    alone = median(0.0)
    assert median(2.5) <= 1.1 * alone
    assert median(4.0) <= 1.2 * alone
