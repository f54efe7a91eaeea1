"""Slots in proportion to load: each adapter gets replicas by its share of the requests.

So NVIDIA Dynamo allots LoRA adapters: its routers keep a table from adapter to replicas and make it
again each 30 seconds. An adapter's share of the smoothed load times all slots, rounded and at least
one, is its number of replicas. Rendezvous hashing chooses them among those with slots left. The
table only narrows a router's choice; replicas load what they are sent.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.picking.replica_view import ReplicaView
from cluster.placement.rendezvous import order
from cluster.simulation.baselines.open_replicas import candidates, least_loaded

Allotment = Mapping[AdapterDigest, tuple[ReplicaId, ...]]


class ProportionalSlotsPick:
    """Picks the least loaded of the replicas that the set's adapters are allotted to.

    A set goes where all its members are allotted; if no replica has all, where its most asked one
    is. An adapter that is not in the table yet goes to its first replica in rendezvous order.
    """

    STEP_S = 30.0
    SMOOTHING = 0.5
    """Part of the newest step in the average of the load."""

    def __init__(self, front: int, seed: int) -> None:
        del front, seed  # fronts that see the same requests make the same table
        self._arrived: Counter[AdapterDigest] = Counter()
        self._load: dict[AdapterDigest, float] = {}
        self._allotted: Allotment = {}
        self._made_at: float | None = None
        self._made_for: tuple[ReplicaId, ...] = ()

    def pick(self, view: ClusterView, request: PickRequest, now: float) -> ReplicaId | None:
        """Return the least loaded replica of the set's."""
        replicas = candidates(view, request, now)
        if not replicas:
            return None
        self._arrived.update(request.digests)
        self._renew(replicas, now)
        ids = [replica.replica_id for replica in replicas]
        allowed = self._allowed(request.digests, ids)
        return least_loaded([replica for replica in replicas if replica.replica_id in allowed])

    def _renew(self, replicas: Sequence[ReplicaView], now: float) -> None:
        """Make a new table where a step has ended or the replicas have changed."""
        ids = tuple(replica.replica_id for replica in replicas)
        if self._made_at is None:
            self._made_at = now
        ended = now - self._made_at >= self.STEP_S
        if ended:
            for digest in self._load.keys() | self._arrived.keys():
                newest = float(self._arrived[digest])
                before = self._load.get(digest, newest)
                self._load[digest] = before + self.SMOOTHING * (newest - before)
            self._load = {digest: load for digest, load in self._load.items() if load >= 0.01}
            self._arrived.clear()
            self._made_at = now
        if ended or ids != self._made_for:
            slots = {replica.replica_id: replica.snapshot.slots_total for replica in replicas}
            self._allotted = allot(self._load, slots)
            self._made_for = ids

    def _allowed(
        self, digests: Sequence[AdapterDigest], ids: Sequence[ReplicaId]
    ) -> frozenset[ReplicaId]:
        present = frozenset(ids)
        if not digests:
            return present
        sets = {
            digest: present.intersection(self._allotted.get(digest, ())) or {order(digest, ids)[0]}
            for digest in digests
        }
        together = frozenset.intersection(*(frozenset(found) for found in sets.values()))
        if together:
            return together
        busiest = max(sorted(digests), key=lambda digest: self._load.get(digest, 0.0))
        return frozenset(sets[busiest])


def allot(load: Mapping[AdapterDigest, float], slots: Mapping[ReplicaId, int]) -> Allotment:
    """Return each adapter's replicas, the busiest adapters first.

    Where more adapters ask than there are slots, the last ones stay with their first replica in
    rendezvous order, which then has more adapters than slots.
    """
    left = dict(slots)
    total_slots, total_load = sum(slots.values()), sum(load.values())
    table: dict[AdapterDigest, tuple[ReplicaId, ...]] = {}
    for digest in sorted(load, key=lambda digest: (-load[digest], digest)):
        wanted = max(1, round(load[digest] / total_load * total_slots)) if total_load else 1
        ranked = order(digest, slots)
        chosen = [replica for replica in ranked if left[replica] > 0][:wanted] or list(ranked[:1])
        for replica in chosen:
            left[replica] -= 1
        table[digest] = tuple(chosen)
    return table
