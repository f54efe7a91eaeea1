"""Loads that show whether requests leave replicas which have their adapters and free places."""

import random

from benchmarks.placement.step_cluster import Arrival
from cluster.domain.ids import AdapterDigest, TenantId

TENANT = TenantId("acme")
TOKENS = 24
RATE = 6.0  # requests per second


def moving_hot_set(seed: int, *, every_s: float = 60.0, seconds: float = 600.0) -> list[Arrival]:
    """Return requests for 6 hot of 30 adapters, which are drawn anew every ``every_s`` seconds."""
    rng = random.Random(seed)
    names = [AdapterDigest(f"adapter-{number:02d}") for number in range(30)]
    hot: list[AdapterDigest] = []
    changes_at = at = 0.0
    arrivals = []
    while (at := at + rng.expovariate(RATE)) < seconds:
        while changes_at <= at:
            hot = rng.sample(names, 6)
            changes_at += every_s
        arrivals.append(Arrival(at, TENANT, (rng.choice(hot),), 0, TOKENS))
    return arrivals


def pairs(seed: int, *, seconds: float = 400.0) -> list[Arrival]:
    """Return requests for 12 pairs of 24 adapters, all as often."""
    rng = random.Random(seed)
    sets = [
        (AdapterDigest(f"adapter-{2 * n:02d}"), AdapterDigest(f"adapter-{2 * n + 1:02d}"))
        for n in range(12)
    ]
    at = 0.0
    arrivals = []
    while (at := at + rng.expovariate(RATE)) < seconds:
        arrivals.append(Arrival(at, TENANT, rng.choice(sets), 0, TOKENS))
    return arrivals
