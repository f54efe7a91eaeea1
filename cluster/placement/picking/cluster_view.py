"""The replicas as one front knows them: their snapshots, and what it sent them since.

One owner (the front's event loop). A request is counted from ``sent`` to ``finished``; once a
snapshot is newer than the sending, the snapshot counts it and the view no longer does.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from cluster.domain.ids import AdapterDigest, ReplicaId, RequestId, TenantId
from cluster.domain.replica import ReplicaSnapshot
from cluster.errors import IntegrityError
from cluster.placement.picking.neighbours import Neighbours


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica at the moment of a pick."""

    snapshot: ReplicaSnapshot
    age: float  # seconds since the replica spoke
    sent: int = 0  # requests this front sent since then
    incoming: frozenset[AdapterDigest] = frozenset()  # adapters of those requests
    on_host: frozenset[AdapterDigest] = frozenset()  # copies in its host memory
    others: float = 0.0  # recent requests that this front sent there for other tenants, fading

    @property
    def replica_id(self) -> ReplicaId:
        return self.snapshot.replica_id

    @property
    def load(self) -> int:
        """Return the number of requests queued, running or on their way."""
        return self.snapshot.queued + self.snapshot.running + self.sent


@dataclass(slots=True)
class _Known:
    snapshot: ReplicaSnapshot
    received_at: float


@dataclass(frozen=True, slots=True)
class _Sent:
    replica_id: ReplicaId
    at: float
    digests: tuple[AdapterDigest, ...] = field(default=())


class ClusterView:
    """Latest snapshot per replica, with local corrections. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._known: dict[ReplicaId, _Known] = {}
        self._sent: dict[RequestId, _Sent] = {}
        self._by_replica: dict[ReplicaId, set[RequestId]] = {}
        self._removed: dict[ReplicaId, tuple[int, float]] = {}  # last sequence, and when
        self._on_host: dict[ReplicaId, frozenset[AdapterDigest]] = {}
        self._neighbours = Neighbours()

    def update(self, snapshot: ReplicaSnapshot, now: float) -> bool:
        """Take in a snapshot; False where a newer one, or the replica's removal, is known."""
        replica_id = snapshot.replica_id
        known = self._known.get(replica_id)
        if known is not None and snapshot.sequence < known.snapshot.sequence:
            return False
        if snapshot.sequence <= self._removed.get(replica_id, (-1, now))[0]:
            return False
        self._removed.pop(replica_id, None)
        self._known[replica_id] = _Known(snapshot, now)
        return True

    def set_on_host(self, replica_id: ReplicaId, digests: Iterable[AdapterDigest]) -> None:
        """Take in what a replica says it has copies of, until it is removed."""
        self._on_host[replica_id] = frozenset(digests)

    def remove(self, replica_id: ReplicaId, now: float) -> None:
        """Drop a lost replica; only a newer snapshot than its last one brings it back."""
        known = self._known.pop(replica_id, None)
        self._on_host.pop(replica_id, None)
        self._neighbours.remove(replica_id)
        if known is not None:
            self._removed[replica_id] = (known.snapshot.sequence, now)
        for request_id in self._by_replica.pop(replica_id, set()):
            del self._sent[request_id]

    def forget_removed(self, before: float) -> None:
        """Release the memory of removals older than ``before``."""
        self._removed = {r: item for r, item in self._removed.items() if item[1] >= before}

    def sent(
        self,
        request_id: RequestId,
        replica_id: ReplicaId,
        tenant: TenantId,
        digests: Iterable[AdapterDigest],
        now: float,
    ) -> None:
        """Note that a request left for a replica; sending it again elsewhere moves it."""
        self.finished(request_id)
        self._sent[request_id] = _Sent(replica_id, now, tuple(digests))
        self._by_replica.setdefault(replica_id, set()).add(request_id)
        self._neighbours.sent(replica_id, tenant, now)

    def finished(self, request_id: RequestId) -> None:
        """Note that a request ended, however; unknown ids are ignored (its replica may be lost)."""
        sent = self._sent.pop(request_id, None)
        if sent is None:
            return
        requests = self._by_replica[sent.replica_id]
        requests.discard(request_id)
        if not requests:
            del self._by_replica[sent.replica_id]

    def snapshot(self, replica_id: ReplicaId) -> ReplicaSnapshot | None:
        """Return the replica's latest snapshot, or None."""
        known = self._known.get(replica_id)
        return None if known is None else known.snapshot

    def replicas(self, now: float, tenant: TenantId | None = None) -> tuple[ReplicaView, ...]:
        """Return all known replicas, by id, as a request of ``tenant`` meets them."""
        return tuple(
            self._view(self._known[replica_id], now, tenant) for replica_id in sorted(self._known)
        )

    def _view(self, known: _Known, now: float, tenant: TenantId | None) -> ReplicaView:
        snapshot = known.snapshot
        since = [
            self._sent[request_id]
            for request_id in self._by_replica.get(snapshot.replica_id, ())
            if self._sent[request_id].at > known.received_at
        ]
        return ReplicaView(
            snapshot=snapshot,
            age=max(0.0, now - known.received_at),
            sent=len(since),
            incoming=frozenset(digest for sent in since for digest in sent.digests),
            on_host=self._on_host.get(snapshot.replica_id, frozenset()),
            others=(
                self._neighbours.of_others(snapshot.replica_id, tenant, now)
                if tenant is not None
                else 0.0
            ),
        )

    def check_integrity(self) -> None:
        """Check that requests and their index by replica agree; raises IntegrityError."""
        indexed = sum(len(requests) for requests in self._by_replica.values())
        if indexed != len(self._sent):
            raise IntegrityError(
                f"cluster view: {len(self._sent)} requests sent but {indexed} indexed by replica"
            )
        for request_id, sent in self._sent.items():
            if request_id not in self._by_replica.get(sent.replica_id, ()):
                raise IntegrityError(
                    f"cluster view: request {request_id} is not indexed under {sent.replica_id}"
                )
        overlap = self._known.keys() & self._removed.keys()
        if overlap:
            raise IntegrityError(
                f"cluster view: {len(overlap)} of {len(self._known)} known replicas are removed"
            )
