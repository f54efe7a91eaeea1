"""The replicas as one front knows them: their snapshots, and what it sent them since.

One owner (the front's event loop). Times are monotonic seconds of this process, so nothing depends
on anybody's wall clock: of two snapshots of a replica the one with the higher sequence is newer.
"""

import itertools
from collections import OrderedDict
from collections.abc import Collection, Iterable

from cluster.domain.ids import AdapterDigest, ReplicaId, RequestId
from cluster.domain.replica import ReplicaSnapshot
from cluster.errors import IntegrityError
from cluster.placement.cost.model import CostModel
from cluster.placement.exchange import FrontOrders
from cluster.placement.picking.cost import PickNeeds, bare_cost
from cluster.placement.picking.filters import Moment, PickRequest
from cluster.placement.picking.homes import Homes
from cluster.placement.picking.mean_tokens import MeanTokens
from cluster.placement.picking.prefix_affinity import PrefixAffinity
from cluster.placement.picking.replica_index import Holders, LoadOrder
from cluster.placement.picking.replica_view import ReplicaView, Sent

_REMOVED_KEPT = 4096  # lost replicas whose late snapshots are known as such
_SIZES_KEPT = 65_536


class ClusterView:
    """Latest snapshot of each replica, local corrections, and indexes to find candidates by.

    A request counts from ``sent`` to ``finished``, or until its replica's own figures have it.
    """

    def __init__(self) -> None:
        self.model = CostModel()
        self.fronts = 1
        self.draining: frozenset[ReplicaId] = frozenset()
        self.mean_tokens = MeanTokens()
        self.prefixes = PrefixAffinity()
        self.homes = Homes()
        self.holders = Holders()
        self.host_holders = Holders()
        self.order = LoadOrder(lambda replica: bare_cost(replica, self.model))
        self._known: dict[ReplicaId, ReplicaView] = {}
        self._nbytes: dict[AdapterDigest, int] = {}
        self._sent: dict[RequestId, ReplicaId] = {}
        self._by_replica: dict[ReplicaId, set[RequestId]] = {}
        self._removed: OrderedDict[ReplicaId, int] = OrderedDict()  # and its last sequence
        self._serials = itertools.count()

    def __len__(self) -> int:
        return len(self._known)

    # Words of replicas and of the controller

    def update(self, snapshot: ReplicaSnapshot, now: float) -> bool:
        """Take in a snapshot; False where a newer one, or the replica's removal, is known."""
        replica_id = snapshot.replica_id
        replica = self._known.get(replica_id)
        if replica is None:
            if snapshot.sequence <= self._removed.get(replica_id, -1):
                return False
            self._removed.pop(replica_id, None)
            replica = self._known[replica_id] = ReplicaView(snapshot, next(self._serials))
            self.homes.join(replica_id)
        elif snapshot.sequence < replica.snapshot.sequence:
            return False
        before = replica.held
        replica.take_snapshot(snapshot, now)
        held = replica.held
        if held is not before and held.keys() != before.keys():
            for digest in self.holders.change(replica, before.keys(), held.keys()):
                self._nbytes[digest] = held[digest].nbytes
        if len(self._nbytes) > _SIZES_KEPT and len(self._nbytes) > 2 * len(self.holders):
            self._nbytes = {d: n for d, n in self._nbytes.items() if self.holders.of(d)}
        self._place(replica)
        return True

    def hear_load(self, replica_id: ReplicaId, running: int, queued: int, now: float) -> bool:
        """Take in a replica's load between snapshots; False if the replica is unknown."""
        replica = self._known.get(replica_id)
        if replica is None:
            return False
        replica.heard_at = now
        replica.running, replica.queued = running, queued
        replica.uncounted.clear()
        slowness = self.model.slowness_of(replica_id)
        replica.drain(now, slowness * self.model.step.per_prefill_token)
        self._place(replica)
        return True

    def set_on_host(self, replica_id: ReplicaId, digests: Iterable[AdapterDigest]) -> None:
        """Take in what a replica says it has copies of, until it is removed."""
        replica = self._known.get(replica_id)
        if replica is not None:
            before, replica.on_host = replica.on_host, frozenset(digests)
            self.host_holders.change(replica, before, replica.on_host)

    def follow(self, orders: FrontOrders) -> None:
        """Take in the controller's word: costs, replicas about to leave, number of fronts.

        A replica is placed by the new costs after its next word.
        """
        self.model = orders.model
        self.draining = orders.draining
        self.fronts = max(1, orders.fronts)

    def remove(self, replica_id: ReplicaId) -> None:
        """Drop a lost replica; only a snapshot newer than its last one brings it back."""
        for request_id in self._by_replica.pop(replica_id, set()):
            del self._sent[request_id]
        replica = self._known.pop(replica_id, None)
        if replica is None:
            return
        self.order.remove(replica)
        self.holders.change(replica, replica.held.keys(), set())
        self.host_holders.change(replica, replica.on_host, set())
        self.homes.leave(replica_id)
        self._removed[replica_id] = replica.snapshot.sequence
        if len(self._removed) > _REMOVED_KEPT:
            self._removed.popitem(last=False)

    # Requests of this front

    def sent(
        self, request_id: RequestId, replica_id: ReplicaId, request: PickRequest, now: float
    ) -> None:
        """Note that a request left for a replica; sending it again elsewhere moves it."""
        self.finished(request_id)
        self.mean_tokens.observe(request.tenant, max(0, request.expected_tokens))
        self._sent[request_id] = replica_id
        self._by_replica.setdefault(replica_id, set()).add(request_id)
        replica = self._known.get(replica_id)
        if replica is not None:
            cached, _ = self.prefixes.cached(request.prefix).get(replica_id, (0, 0.0))
            tokens = max(0, request.prompt_tokens - cached)
            replica.add_sent(request_id, Sent(request.tenant, tokens, request.digests, now))
            self._place(replica)
        self.prefixes.note(request.prefix, replica_id, now)

    def finished(self, request_id: RequestId) -> None:
        """Note that a request ended, however; unknown ids are ignored (its replica may be lost)."""
        replica_id = self._sent.pop(request_id, None)
        if replica_id is None:
            return
        requests = self._by_replica[replica_id]
        requests.discard(request_id)
        if not requests:
            del self._by_replica[replica_id]
        replica = self._known.get(replica_id)
        if replica is not None and request_id in replica.unreported:
            replica.remove_sent(request_id)
            self._place(replica)

    def _place(self, replica: ReplicaView) -> None:
        """Give a replica the load that it now has, and another place in the order."""
        uncounted = len(replica.uncounted) * self.fronts
        self.order.note_change(replica, replica.queued + replica.running + uncounted)

    # Reading

    def snapshot(self, replica_id: ReplicaId) -> ReplicaSnapshot | None:
        """Return the replica's latest snapshot, or None."""
        replica = self._known.get(replica_id)
        return None if replica is None else replica.snapshot

    def get(self, replica_id: ReplicaId) -> ReplicaView | None:
        """Return what is known of a replica, or None."""
        return self._known.get(replica_id)

    @property
    def known(self) -> Collection[ReplicaView]:
        """Return all known replicas, as they came."""
        return self._known.values()

    def replicas(self) -> tuple[ReplicaView, ...]:
        """Return all known replicas, by id."""
        return tuple(self._known[replica_id] for replica_id in sorted(self._known))

    @property
    def has_staying(self) -> bool:
        """Report whether a replica is known that does not say that it is about to end."""
        return not all(replica.snapshot.draining for replica in self._known.values())

    def homes_of(self, digests: Iterable[AdapterDigest], key: str) -> tuple[ReplicaId, ...]:
        """Return the homes of a set, none while devices have every member.

        Ranking all replicas for a set that is asked for the first time takes long.
        """
        return () if all(map(self.holders.of, digests)) else self.homes.of(key)

    def copies(self, digest: AdapterDigest) -> int:
        """Return how many replicas have an adapter, counted in either tier."""
        return len(self.holders.of(digest)) + len(self.host_holders.of(digest))

    def moment(self, now: float) -> Moment:
        """Return the facts about the whole cluster that filters need."""
        return Moment(now, self.order.total_load / max(1, len(self._known)), self.draining)

    def asked(self, request: PickRequest, *, harm: float, prefix: bool, now: float) -> PickNeeds:
        """Return the request with all but the replica that its cost depends on.

        Args:
            harm: weight of the seconds that it costs others.
            prefix: whether replicas that computed its beginning have an advantage.
        """
        nbytes = self._nbytes
        return PickNeeds(
            tenant=request.tenant,
            prompt=max(0, request.prompt_tokens),
            expected=max(0, request.expected_tokens),
            members=tuple([(d, nbytes.get(d, 0)) for d in dict.fromkeys(request.digests)]),
            cached=self.prefixes.cached(request.prefix) if prefix and request.prefix else {},
            mean_tokens=self.mean_tokens.of(request.tenant),
            fronts=self.fronts,
            harm=harm,
            now=now,
        )

    def check_integrity(self) -> None:
        """Check that requests, replicas and their indexes agree; raises IntegrityError."""
        indexed = sum(len(requests) for requests in self._by_replica.values())
        if indexed != len(self._sent):
            raise IntegrityError(
                f"cluster view: {len(self._sent)} requests sent but {indexed} indexed by replica"
            )
        for request_id, replica_id in self._sent.items():
            if request_id not in self._by_replica.get(replica_id, ()):
                raise IntegrityError(
                    f"cluster view: request {request_id} is not indexed under {replica_id}"
                )
        overlap = self._known.keys() & self._removed.keys()
        if overlap:
            raise IntegrityError(
                f"cluster view: {len(overlap)} of {len(self._known)} known replicas are removed"
            )
        load = sum(replica.load for replica in self._known.values())
        if len(self.order) != len(self._known) or load != self.order.total_load:
            raise IntegrityError(
                f"cluster view: {len(self.order)} replicas of load {self.order.total_load} are "
                f"in order, {len(self._known)} of load {load} are known"
            )
        for replica in self._known.values():
            missing = [d for d in replica.held if replica not in self.holders.of(d)]
            if missing:
                raise IntegrityError(
                    f"cluster view: {replica.replica_id} is not indexed under {missing[0]}"
                )
