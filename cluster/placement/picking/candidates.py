"""Finds the few replicas that may be the best for a request, without looking at all of them."""

import itertools
import random
from collections.abc import Collection

from cluster.domain.ids import ReplicaId
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.cost import Asked
from cluster.placement.picking.replica_view import ReplicaView

MOST = 16
_WITH_ALL = 5
_WITH_HEAVIEST = 2
_CHEAPEST = 2
_AT_RANDOM = 2
_WALKED = 32  # of the order, for one with a free slot


def candidates(
    view: ClusterView,
    asked: Asked,
    key: str,
    excluded: Collection[ReplicaId],
    rng: random.Random,
    most: int = MOST,
) -> list[ReplicaView]:
    """Return at most ``most`` replicas, all where there are no more.

    Args:
        key: of the set, for its homes.

    They are those that computed the prompt's beginning, the set's homes if nobody has a member of
    it, the cheapest with all of the set, with its heaviest member, with a copy of that in host
    memory, with free slots, and of all, and a few at random.
    """
    order = view.order
    if len(order) <= most:
        return list(order)
    found: dict[ReplicaView, None] = {}
    digests = [digest for digest, _ in asked.members]
    holders = view.holders.of_all(digests) if digests else ()
    cold = not any(view.holders.of(digest) for digest in digests)
    homes = view.homes.of(key) if cold else ()  # ranking all replicas takes long
    for replica_id in itertools.chain(asked.cached, homes):
        replica = view.get(replica_id)
        if replica is not None:
            found[replica] = None
    if digests:
        found.update(dict.fromkeys(order.cheapest(_WITH_ALL, holders)))
        heaviest = max(asked.members, key=lambda member: member[1])[0]
        if len(digests) > 1:
            some = order.cheapest(_WITH_HEAVIEST, view.holders.of(heaviest))
            found.update(dict.fromkeys(some))
        copies = order.cheapest(_WITH_HEAVIEST, view.host_holders.of(heaviest))
        found.update(dict.fromkeys(copies))
    cheap = 0
    room = not asked.members
    for replica in itertools.islice(order, _WALKED):
        if replica.replica_id in excluded:
            continue
        if cheap < _CHEAPEST:
            cheap += 1
        elif room:
            break
        elif replica.free_slots < len(asked.members):
            continue
        room = room or replica.free_slots >= len(asked.members)
        found[replica] = None
    for _ in range(_AT_RANDOM):
        found[order[int(rng.random() * len(order))]] = None
    return list(itertools.islice(found, most))
