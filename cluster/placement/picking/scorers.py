"""Scorers map candidates to [0, 1]; what a scorer counts is the policy's, never its own."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest
from cluster.placement.picking.cluster_view import ReplicaView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.rendezvous import mixture_key, order


class Scorer(Protocol):
    """Compares candidates with each other."""

    @property
    def name(self) -> str:
        """Return its key in the policy's weights."""
        ...

    def score(self, replicas: Sequence[ReplicaView], request: PickRequest) -> Sequence[float]:
        """Return one value in [0, 1] per replica, higher is better."""
        ...


class ResidencyScorer:
    """Scores by the share of the mixture that a replica has, in bytes.

    Each adapter's tier is the value of the nearest of: on the device, on its way there, promised
    by the placement, a free slot, a slot that can be freed, no room; room counts more where a copy
    in host memory spares the disk. A mixture that no replica has any part of is drawn to its
    rendezvous home, so that its next request meets it again.
    """

    name = "residency"

    READY = 1.0
    LOADING = 0.8
    INCOMING = 0.75  # a request sent a moment ago makes the replica load it
    ON_HOST = 0.65
    FETCHING = 0.6
    DESIRED = 0.5
    FREE_SLOT = 0.35
    EVICTABLE = 0.15
    NO_ROOM = 0.0
    HOME = 0.15  # added
    COPY = 0.25  # added to room: a copy in host memory

    _TIERS: ClassVar[Mapping[AdapterState, float]] = {
        AdapterState.READY: READY,
        AdapterState.LOADING: LOADING,
        AdapterState.ON_HOST: ON_HOST,
        AdapterState.FETCHING: FETCHING,
    }

    def score(self, replicas: Sequence[ReplicaView], request: PickRequest) -> Sequence[float]:
        digests = tuple(sorted(set(request.digests)))
        if not digests:
            return [1.0] * len(replicas)
        sizes = _sizes(digests, replicas)
        total = sum(sizes.values())
        values = [self._mixture(replica, sizes) / total for replica in replicas]
        if replicas and max(values) <= self.FREE_SLOT:
            home = order(mixture_key(digests), [replica.replica_id for replica in replicas])[0]
            full = max(values) == self.NO_ROOM
            return [
                value + self.HOME if replica.replica_id == home and (value or full) else value
                for replica, value in zip(replicas, values, strict=True)
            ]
        return values

    def _mixture(self, replica: ReplicaView, sizes: dict[AdapterDigest, float]) -> float:
        snapshot = replica.snapshot
        states = {adapter.digest: adapter.state for adapter in snapshot.resident}
        desired = set(snapshot.desired)
        absent = [d for d in sizes if d not in self._present(states)]
        in_slots = [a for a in snapshot.resident if a.state in _HOLDS_SLOT]
        free = snapshot.slots_total - len(in_slots)
        evictable = sum(
            1
            for a in in_slots
            if a.digest not in sizes
            and a.digest not in desired
            and a.state is AdapterState.READY
            and a.leases == 0
            and not a.pinned
        )
        if len(absent) <= free:
            room = self.FREE_SLOT
        elif len(absent) <= free + evictable:
            room = self.EVICTABLE
        else:
            room = self.NO_ROOM
        value = 0.0
        for digest, size in sizes.items():
            state = states.get(digest, AdapterState.ABSENT)
            if state is AdapterState.FAILED:
                continue
            spared = self.COPY if room and digest in replica.on_host else 0.0
            tier = self._TIERS.get(state, room + spared)
            if digest in replica.incoming:
                tier = max(tier, self.INCOMING)
            if digest in desired:
                tier = max(tier, self.DESIRED)
            value += tier * size
        return value

    def _present(self, states: dict[AdapterDigest, AdapterState]) -> set[AdapterDigest]:
        return {digest for digest, state in states.items() if state in _HOLDS_SLOT}


_HOLDS_SLOT = frozenset({AdapterState.READY, AdapterState.LOADING, AdapterState.EVICTING})


def _sizes(
    digests: Sequence[AdapterDigest], replicas: Sequence[ReplicaView]
) -> dict[AdapterDigest, float]:
    """Return the bytes of each adapter: the mean of the others if unknown, 1 if all are."""
    known: dict[AdapterDigest, int] = {}
    for replica in replicas:
        for adapter in replica.snapshot.resident:
            known[adapter.digest] = max(known.get(adapter.digest, 0), adapter.nbytes)
    sizes = {d: float(known.get(d, 0)) for d in digests}
    positive = [size for size in sizes.values() if size > 0]
    mean = sum(positive) / len(positive) if positive else 1.0
    return {digest: size or mean for digest, size in sizes.items()}


class LoadScorer:
    """``1 / (1 + load / (mean + 1))``: 1 when idle, about a half at the mean of many.

    The 1 added to the mean keeps a single request from weighing as much as a hundred.
    """

    name = "load"

    def score(self, replicas: Sequence[ReplicaView], request: PickRequest) -> Sequence[float]:
        del request
        if not replicas:
            return []
        mean = sum(replica.load for replica in replicas) / len(replicas)
        return [1.0 / (1.0 + replica.load / (mean + 1.0)) for replica in replicas]


class TenantScorer:
    """Keeps out of other tenants' way: 1 minus the replica's share of their recent requests.

    So two tenants come apart if replicas have room, each with its adapters and prefixes, and one
    that asks without end leaves the other a quiet replica. A replica that has more than ``SLACK``
    requests above the least loaded one scores nothing: keeping apart is not worth waiting. With
    one tenant the replicas do not differ in this, and with many they differ little.
    """

    name = "tenants"

    SLACK = 2

    def score(self, replicas: Sequence[ReplicaView], request: PickRequest) -> Sequence[float]:
        del request
        total = sum(replica.others for replica in replicas)
        if not total:
            return [1.0] * len(replicas)
        most = min(replica.load for replica in replicas) + self.SLACK
        return [1.0 - r.others / total if r.load <= most else 0.0 for r in replicas]


class KvHeadroomScorer:
    """Share of KV blocks that are free."""

    name = "kv"

    def score(self, replicas: Sequence[ReplicaView], request: PickRequest) -> Sequence[float]:
        del request
        return [1.0 - replica.snapshot.kv_usage for replica in replicas]
