"""Finds the few replicas that may be the best for a request, without looking at all of them."""

import heapq
import itertools
import random
from collections.abc import Collection

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.cost import PickNeeds
from cluster.placement.picking.filters import STALE_AFTER_S
from cluster.placement.picking.replica_view import ReplicaView

MOST = 16
_OF_MANY = 12
_WITH_SOME = 4
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

    They are those that computed the prompt's beginning, the set's homes, the cheapest with some of
    it on the device or the host, with free slots, and of all, and a few at random.
    """
    if len(view) <= most:
        return list(view.known)
    order = view.order
    order.settle()
    found: dict[ReplicaView, None] = {}
    digests = [digest for digest, _ in asked.members]
    homes = view.homes_of(digests, key)
    for replica_id in itertools.chain(asked.cached, homes):
        replica = view.get(replica_id)
        if replica is not None:
            found[replica] = None
    if digests:
        found.update(dict.fromkeys(_with_some(view, asked)))
    cheap = 0
    room = not asked.members
    staying = (r for r in order if r.replica_id not in excluded and _stays(r, view, asked.now))
    for replica in itertools.islice(staying, _WALKED):
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


def _stays(replica: ReplicaView, view: ClusterView, now: float) -> bool:
    """Return False for those that look free because they get no more requests."""
    if replica.snapshot.draining or replica.replica_id in view.draining:
        return False
    return replica.heard_at >= now - STALE_AFTER_S


def _with_some(view: ClusterView, asked: PickNeeds) -> list[ReplicaView]:
    """Return the cheapest that have members of the set in either tier, by a rough estimate.

    All holders of the rarest members are looked at, and of those that are many the cheapest.
    """
    host, disk = view.model.host_load, view.model.disk_load
    members = [(d, host.seconds(n), disk.seconds(n)) for d, n in asked.members]
    groups = [g for d, _, _ in members for g in (view.holders.of(d), view.host_holders.of(d)) if g]
    groups.sort(key=len)
    pool: set[ReplicaView] = set()
    cheapest = view.order.cheapest
    for group in groups:
        pool |= group if len(pool) + len(group) <= _SCANNED else set(cheapest(_OF_MANY, group))
    if len(members) > 1 and groups and len(groups[0]) > _SCANNED:
        pool.update(cheapest(_OF_MANY, view.holders.of_all([d for d, _, _ in members])))
    estimate = _Estimate(view, asked, members)
    estimates = [(estimate.seconds(replica), replica.serial, replica) for replica in pool]
    return [replica for _, _, replica in heapq.nsmallest(_WITH_SOME, estimates)]


class _Estimate:
    """Estimates the cost of a replica for one request, at a tenth of the time of ``cost_of``.

    Left out are the residents that leases pin, context and rows of other adapters, and the turns of
    tenants beyond their number.
    """

    __slots__ = ("_fronts", "_members", "_per_running", "_per_token", "_prompt", "_slowness")

    def __init__(
        self, view: ClusterView, asked: PickNeeds, members: list[tuple[AdapterDigest, float, float]]
    ) -> None:
        step = view.model.step
        self._members = members
        self._prompt, self._per_token = asked.prompt, step.per_prefill_token
        computing = asked.prompt * step.per_prefill_token
        self._per_running = (
            asked.harm * (computing + asked.expected * step.per_decode_row) + step.per_decode_row
        )
        self._fronts = asked.fronts
        self._slowness = view.model.slowness

    def seconds(self, replica: ReplicaView) -> float:
        """Return the seconds above those that any replica needs."""
        held, on_host = replica.held, replica.on_host
        seconds, missing = 0.0, 0
        for digest, from_host, from_disk in self._members:
            if digest not in held:
                missing += 1
                load = from_host if digest in on_host else from_disk
                if load > seconds:
                    seconds = load
        if missing > replica.free_slots:
            seconds += self._members[0][1]  # for what has to be evicted
        if replica.backlog_total or replica.sent_total:
            tokens = replica.backlog_total * replica.left + replica.sent_total * self._fronts
            turns = len(replica.snapshot.backlog) + len(replica.sent_tokens)
            queue = min(tokens, turns * self._prompt) * self._per_token
            if queue > seconds:
                seconds = queue
        if self._slowness:
            seconds *= self._slowness.get(replica.replica_id, 1.0)
        load = replica.load
        if load >= replica.snapshot.max_batch_size:
            return seconds + replica.order_key
        return seconds + load * self._per_running
