"""Keeps the homes of each adapter set: the first replicas in its rendezvous order.

Ranking all replicas costs a hash for each. What was ranked once is corrected when replicas join,
and ranked again only where a home itself left.
"""

from collections import OrderedDict

from cluster.domain.ids import ReplicaId
from cluster.placement.rendezvous import first

COUNT = 2
_MOST_KEPT = 16_384  # sets
_MOST_JOINED = 256  # joins that are replayed rather than ranked anew


class Homes:
    """The first ``COUNT`` replicas of each set's order."""

    def __init__(self) -> None:
        self._replicas: set[ReplicaId] = set()
        self._joined: list[ReplicaId] = []
        self._ranked: OrderedDict[str, tuple[int, tuple[ReplicaId, ...]]] = OrderedDict()

    def join(self, replica_id: ReplicaId) -> None:
        """Add a replica."""
        self._replicas.add(replica_id)
        if len(self._joined) >= _MOST_JOINED:
            self._joined.clear()
            self._ranked.clear()
        self._joined.append(replica_id)

    def leave(self, replica_id: ReplicaId) -> None:
        """Remove a replica."""
        self._replicas.discard(replica_id)

    def of(self, key: str) -> tuple[ReplicaId, ...]:
        """Return the first replicas for a set's key, fewer only if there are fewer."""
        joined = len(self._joined)
        seen, homes = self._ranked.get(key, (-1, ()))
        if seen < 0 or not self._replicas.issuperset(homes):
            homes = first(key, self._replicas, COUNT)
        elif seen < joined:
            new = self._replicas.intersection(self._joined[seen:])
            homes = first(key, new.union(homes), COUNT)
        else:
            return homes
        self._ranked[key] = joined, homes
        self._ranked.move_to_end(key)
        if len(self._ranked) > _MOST_KEPT:
            self._ranked.popitem(last=False)
        return homes
