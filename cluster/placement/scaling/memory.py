"""Says how many requests would find an adapter missing, for any number of replicas."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.domain.ids import AdapterDigest
from cluster.placement.demand.clocks import up_rate
from cluster.placement.demand.demand import AdapterSet, Demand

SPARE = 0.1
"""Share of all slots that is kept free, rounded down: no arrangement fills every pool."""


@dataclass(frozen=True, slots=True)
class PoolShape:
    """The room for adapters in one replica."""

    slots: int
    nbytes: int

    def share(self, nbytes: int) -> float:
        """Return the share of the pool that an adapter takes, of what is scarcer for it."""
        return max(1.0 / self.slots, nbytes / self.nbytes if self.nbytes else 0.0)


@dataclass(frozen=True, slots=True)
class ColdCurve:
    """The share of requests whose set finds no room, by the number of pools.

    Sets are taken in the order of their rate by room. The lists are sums over the first sets of
    that order, so each answer is a search in them.
    """

    pool: PoolShape
    room: tuple[float, ...]  # pools that the sets take, by their shares
    pools: tuple[float, ...]  # pools that there must be, since big adapters share none
    rates: tuple[float, ...]  # requests per second
    lost: float  # requests per second that another pool would help
    total: float  # requests per second, those without an adapter too
    nbytes: int  # of all distinct adapters asked for

    def cold(self, replicas: float) -> float:
        """Return the share of requests without room in the pools of so many replicas."""
        if self.total <= 0.0:
            return 0.0
        spare = int(SPARE * replicas * self.pool.slots + 1e-9) / self.pool.slots
        fit = min(
            bisect_right(self.room, replicas - spare + 1e-9),
            bisect_right(self.pools, replicas + 1e-9),
        )
        found = self.rates[fit - 1] if fit else 0.0
        return max(0.0, self.lost - found) / self.total

    def least(self, most_cold: float, high: int) -> int:
        """Return the least number of replicas, up to ``high``, that has no more cold requests."""
        low = 1
        while low < high:
            middle = (low + high) // 2
            if self.cold(middle) <= most_cold:
                high = middle
            else:
                low = middle + 1
        return low


def cold_curve(
    demand: Demand, pool: PoolShape, adapter_bytes: Mapping[AdapterDigest, int]
) -> ColdCurve:
    """Return the curve of a demand; a set counts with the rate that must be served.

    A set that does not fit in one pool is left out: no number of replicas helps it. An adapter
    of unknown size counts for one slot.
    """
    clocks: dict[AdapterSet, tuple[float, float]] = {}
    for rate in demand.rates:
        members = rate.key.adapters
        known = clocks.get(members)
        if known is None:
            clocks[members] = rate.fast, rate.slow
        else:
            clocks[members] = known[0] + rate.fast, known[1] + rate.slow
    by_set = {members: up_rate(fast, slow) for members, (fast, slow) in clocks.items()}
    total = sum(by_set.values())
    by_set.pop((), None)
    shares = {
        digest: pool.share(adapter_bytes.get(digest, 0)) for members in by_set for digest in members
    }
    sized = [(members, sum([shares[digest] for digest in members])) for members in by_set]
    fitting = [(members, size) for members, size in sized if size <= 1.0 + 1e-9]
    fitting.sort(key=lambda item: (-by_set[item[0]] / item[1], item[0]))
    room, pools, rates = [], [], []
    seen: set[AdapterDigest] = set()
    taken = summed = 0.0
    halves = thirds = 0
    for members, _ in fitting:
        for digest in members:
            if digest not in seen:
                seen.add(digest)
                taken += shares[digest]
                halves += shares[digest] > 0.5
                thirds += shares[digest] > 1.0 / 3.0
        summed += by_set[members]
        room.append(taken)
        pools.append(max(float(halves), thirds / 2.0))
        rates.append(summed)
    nbytes = sum(adapter_bytes.get(digest, 0) for digest in seen)
    return ColdCurve(pool, tuple(room), tuple(pools), tuple(rates), summed, total, nbytes)
