"""Finds replicas by what they hold and by how soon they would serve.

Kept by differences: a snapshot costs as much as changed in it.
"""

import bisect
import heapq
from collections.abc import Callable, Collection, Iterator, Sequence, Set

from cluster.domain.ids import AdapterDigest
from cluster.placement.picking.replica_view import ReplicaView

_SCANNED = 64
"""Of fewer replicas all are compared; of more, the order is walked until enough are met."""
_NOBODY: Set[ReplicaView] = frozenset()


class Holders:
    """The replicas that have each adapter in one tier."""

    def __init__(self) -> None:
        self._of: dict[AdapterDigest, set[ReplicaView]] = {}

    def __len__(self) -> int:
        """Return the number of adapters that any replica has."""
        return len(self._of)

    def of(self, digest: AdapterDigest) -> Set[ReplicaView]:
        """Return those that have an adapter."""
        return self._of.get(digest, _NOBODY)

    def of_all(self, digests: Sequence[AdapterDigest]) -> Set[ReplicaView]:
        """Return those that have every one of some adapters (at least one)."""
        fewest, *rest = sorted((self.of(digest) for digest in digests), key=len)
        for holders in rest:
            fewest = fewest & holders
        return fewest

    def change(
        self, replica: ReplicaView, before: Set[AdapterDigest], after: Set[AdapterDigest]
    ) -> Set[AdapterDigest]:
        """Take in what a replica has now; returns what is new."""
        for digest in before - after:
            holders = self._of[digest]
            holders.discard(replica)
            if not holders:
                del self._of[digest]
        new = after - before
        for digest in new:
            if digest not in self._of:
                self._of[digest] = set()
            self._of[digest].add(replica)
        return new


class LoadOrder:
    """Replicas by the cost of a request that needs no adapter, cheapest first.

    Those that have changed are put into their places when the order is next read, which a front of
    few replicas never does.

    Args:
        cost: of such a request at a replica, in seconds.
    """

    def __init__(self, cost: Callable[[ReplicaView], float]) -> None:
        self._cost = cost
        self._order: list[tuple[float, int, ReplicaView]] = []
        self._placed: set[ReplicaView] = set()  # those in ``_order``, by their ``order_key``
        self._changed: dict[ReplicaView, None] = {}  # since then
        self.total_load = 0

    def __len__(self) -> int:
        self.settle()
        return len(self._order)

    def __iter__(self) -> Iterator[ReplicaView]:
        self.settle()
        return (replica for _, _, replica in self._order)

    def __getitem__(self, index: int) -> ReplicaView:
        self.settle()
        return self._order[index][2]

    def note_change(self, replica: ReplicaView, load: int) -> None:
        """Take in a replica that is new or has changed, and its load."""
        self.total_load += load - replica.load
        replica.load = load
        self._changed[replica] = None

    def remove(self, replica: ReplicaView) -> None:
        """Remove a replica."""
        self.total_load -= replica.load
        self._changed.pop(replica, None)
        self._take_out(replica)

    def settle(self) -> None:
        """Put those that have changed into their places, by the costs in force."""
        for replica in self._changed:
            self._take_out(replica)
            replica.order_key = self._cost(replica)
            bisect.insort(self._order, (replica.order_key, replica.serial, replica))
        self._placed.update(self._changed)
        self._changed.clear()

    def _take_out(self, replica: ReplicaView) -> None:
        if replica in self._placed:
            self._placed.discard(replica)
            del self._order[bisect.bisect_left(self._order, (replica.order_key, replica.serial))]

    def cheapest(
        self, count: int, among: Collection[ReplicaView], *, free_slots: int = 0
    ) -> list[ReplicaView]:
        """Return the first ``count`` of some replicas that have so many slots free."""
        self.settle()
        if len(among) <= _SCANNED:
            fit = [r for r in among if r.free_slots >= free_slots] if free_slots else among
            return heapq.nsmallest(count, fit, key=_place) if len(fit) > count else list(fit)
        found: list[ReplicaView] = []
        for _, _, replica in self._order:
            if replica in among and replica.free_slots >= free_slots:
                found.append(replica)
                if len(found) == count:
                    break
        return found


def _place(replica: ReplicaView) -> tuple[float, int]:
    return replica.order_key, replica.serial
