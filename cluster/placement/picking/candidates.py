"""Finds the few replicas that may be the best for a request, without looking at all of them."""

import heapq
import itertools
import random
from collections.abc import Collection

from cluster.domain.ids import ReplicaId
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.cost import PickNeeds
from cluster.placement.picking.replica_view import ReplicaView

MOST = 16
_WITH_ALL = 3
_WITH_SOME = 6
_SCANNED = 64
"""Replicas with members of the set that are compared before candidates are chosen among them."""
_CHEAPEST = 2
_AT_RANDOM = 2
_WALKED = 32  # of the order, for one with free slots


def candidates(
    view: ClusterView,
    asked: PickNeeds,
    key: str,
    excluded: Collection[ReplicaId],
    rng: random.Random,
    most: int = MOST,
) -> list[ReplicaView]:
    """Return at most ``most`` replicas, which may be all.

    Args:
        key: of the set, for its homes.

    They are those that computed the prompt's beginning, the set's homes if no replica has a
    member of it, the cheapest with some of it on the device or the host, with free slots, and of
    all, and a few at random.
    """
    order = view.order
    if len(order) <= most:
        return list(order)
    found: dict[ReplicaView, None] = {}
    digests = [digest for digest, _ in asked.members]
    cold = not any(view.holders.of(digest) for digest in digests)
    homes = view.homes.of(key) if cold else ()  # ranking all replicas takes long
    for replica_id in itertools.chain(asked.cached, homes):
        replica = view.get(replica_id)
        if replica is not None:
            found[replica] = None
    if digests:
        found.update(dict.fromkeys(_with_some(view, asked)))
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


def _with_some(view: ClusterView, asked: PickNeeds) -> list[ReplicaView]:
    """Return the cheapest that have members of the set in either tier, by a rough estimate.

    Only the holders of the rarest members are looked at: those of the others are many, so that
    the cheapest of all are likely to be among them.
    """
    host, disk = view.model.host_load, view.model.disk_load
    members = [(d, host.seconds(n), disk.seconds(n)) for d, n in asked.members]
    groups = [g for d, _, _ in members for g in (view.holders.of(d), view.host_holders.of(d)) if g]
    groups.sort(key=len)
    pool: set[ReplicaView] = set()
    for group in groups:
        if len(pool) + len(group) <= _SCANNED:
            pool |= group
    if not pool and groups:
        cheapest = view.order.cheapest
        pool.update(cheapest(_WITH_ALL, view.holders.of_all([d for d, _, _ in members])))
        pool.update(*(cheapest(_WITH_ALL, group) for group in groups))
    estimates = []
    for replica in pool:
        held, on_host = replica.held, replica.on_host
        longest, missing = 0.0, 0
        for digest, from_host, from_disk in members:
            if digest not in held:
                missing += 1
                seconds = from_host if digest in on_host else from_disk
                longest = max(longest, seconds)
        if missing > replica.free_slots:
            longest += members[0][1]  # for what has to be evicted
        estimates.append((longest + replica.order_key, replica.serial, replica))
    return [replica for _, _, replica in heapq.nsmallest(_WITH_SOME, estimates)]
