"""A small cluster with a virtual clock, to judge placement without machines.

Replicas have slots, bytes, a batch and load times; requests come as Poisson arrivals from a
generator that is an argument. The same arrivals can be served with the real picker and
reconciler, by rendezvous hashing alone, or at random.
"""

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.placement.planning.fleet import ReplicaPlan
from cluster.placement.planning.reconciler import Actions, Reconciler

from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import BASE, AdapterDigest, ReplicaId, RequestId, TenantId
from cluster.domain.replica import AdapterLoad, ReplicaSnapshot
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.picking.picker import Picker
from cluster.placement.planning.load import REQUESTS_COUNTER
from cluster.placement.planning.plan import AdapterInfo, MoveKind
from cluster.placement.policy import ClusterPolicy
from cluster.placement.rendezvous import mixture_key, order

Mixture = tuple[AdapterDigest, ...]
Chooser = Callable[[ClusterView, Mixture, float], ReplicaId]


@dataclass(frozen=True, slots=True)
class Stream:
    """One tenant's steady demand for one mixture."""

    tenant: TenantId
    mixture: Mixture
    rate: float  # requests per second


@dataclass(slots=True)
class _Resident:
    info: AdapterInfo
    ready_at: float
    leases: int = 0
    last_used: float = 0.0


@dataclass(slots=True)
class _Request:
    tenant: TenantId
    mixture: Mixture
    request_id: RequestId


@dataclass(slots=True)
class SimReplica:
    """One replica: adapters load lazily or when told; requests wait for them and for the batch."""

    replica_id: ReplicaId
    slots: int
    bytes_limit: int
    batch: int = 8  # requests served at once
    service_s: float = 1.0
    load_s: float = 0.5  # seconds to bring in an adapter
    resident: dict[AdapterDigest, _Resident] = field(default_factory=dict)
    running: list[tuple[float, _Request]] = field(default_factory=list)  # (end, request)
    queue: deque[_Request] = field(default_factory=deque)
    arrived: dict[tuple[AdapterDigest, TenantId], int] = field(default_factory=dict)
    requests: int = 0
    desired: tuple[AdapterDigest, ...] = ()
    desired_version: int = 0
    loads: int = 0  # adapters brought in, for whatever reason

    @property
    def nbytes(self) -> int:
        """Bytes of the adapters here."""
        return sum(resident.info.nbytes for resident in self.resident.values())

    def ready(self, mixture: Mixture, now: float) -> bool:
        """Return whether the whole mixture is on the device."""
        return all(d in self.resident and self.resident[d].ready_at <= now for d in mixture)

    def fetch(self, info: AdapterInfo, now: float, keep: Iterable[AdapterDigest] = ()) -> bool:
        """Bring an adapter in, evicting least recently used ones; False where no room is left."""
        if info.digest in self.resident:
            return True
        kept = {*keep, info.digest}
        victims = sorted(
            (r.info.digest in self.desired, r.last_used, digest)
            for digest, r in self.resident.items()
            if r.leases == 0 and digest not in kept and r.ready_at <= now
        )
        leaving: list[AdapterDigest] = []
        free_slots = self.slots - len(self.resident)
        free_bytes = self.bytes_limit - self.nbytes
        for _, _, digest in victims:
            if free_slots >= 1 and free_bytes >= info.nbytes:
                break
            leaving.append(digest)
            free_slots += 1
            free_bytes += self.resident[digest].info.nbytes
        if free_slots < 1 or free_bytes < info.nbytes:
            return False
        for digest in leaving:
            del self.resident[digest]
        self.resident[info.digest] = _Resident(info, now + self.load_s, last_used=now)
        self.loads += 1
        return True

    def submit(
        self, request: _Request, catalog: Mapping[AdapterDigest, AdapterInfo], now: float
    ) -> None:
        """Count a request, start its adapters' loads and queue it."""
        self.requests += 1
        for digest in request.mixture or (BASE,):
            key = (digest, request.tenant)
            self.arrived[key] = self.arrived.get(key, 0) + 1
        self.queue.append(request)
        self.advance(catalog, now)

    def advance(self, catalog: Mapping[AdapterDigest, AdapterInfo], now: float) -> list[RequestId]:
        """Finish and admit requests up to ``now``; returns those finished."""
        finished = [request for end, request in self.running if end <= now]
        self.running = [entry for entry in self.running if entry[0] > now]
        for request in finished:
            for digest in request.mixture:
                self.resident[digest].leases -= 1
        while self.queue and len(self.running) < self.batch:
            request = self.queue[0]
            if not all(self.fetch(catalog[d], now, request.mixture) for d in request.mixture):
                break
            self.queue.popleft()
            start = max([now, *(self.resident[d].ready_at for d in request.mixture)])
            for digest in request.mixture:
                self.resident[digest].leases += 1
                self.resident[digest].last_used = now
            self.running.append((start + self.service_s, request))
        return [request.request_id for request in finished]

    def apply(
        self,
        told: ReplicaPlan,
        actions: Actions,
        catalog: Mapping[AdapterDigest, AdapterInfo],
        now: float,
    ) -> tuple[list[AdapterDigest], dict[AdapterDigest, str], list[AdapterDigest]]:
        """Follow a plan; returns loaded, failed with messages, and evicted."""
        to_evict = [
            move.digest
            for move in actions.moves
            if move.replica_id == told.replica_id and move.kind is MoveKind.EVICT
        ]
        evicted = [d for d in to_evict if d in self.resident and self.resident[d].leases == 0]
        for digest in evicted:
            del self.resident[digest]
        self.desired, self.desired_version = told.desired, told.version
        missing = [d for d in told.desired if not self.ready((d,), now)]
        fetched = {d: self.fetch(catalog[d], now, told.desired) for d in missing}
        loaded = [digest for digest, done in fetched.items() if done]
        failed = {digest: "no room beside leases" for digest, done in fetched.items() if not done}
        return loaded, failed, evicted

    def snapshot(self, now: float) -> ReplicaSnapshot:
        """Return the replica's report about itself."""
        return ReplicaSnapshot(
            replica_id=self.replica_id,
            address="",
            queued=len(self.queue),
            running=len(self.running),
            kv_blocks_total=self.batch,
            kv_blocks_free=self.batch - len(self.running),
            slots_total=self.slots,
            adapter_bytes_limit=self.bytes_limit,
            adapter_bytes_used=self.nbytes,
            resident=tuple(
                ResidentAdapter(
                    digest=digest,
                    alias=r.info.alias,
                    state=AdapterState.READY if r.ready_at <= now else AdapterState.LOADING,
                    nbytes=r.info.nbytes,
                    rank=8,
                    leases=r.leases,
                    last_used=r.last_used,
                )
                for digest, r in sorted(self.resident.items())
            ),
            loads=tuple(AdapterLoad(d, t, n, 0) for (d, t), n in sorted(self.arrived.items())),
            draining=False,
            observed_at=now,
            desired=self.desired,
            desired_version=self.desired_version,
            max_batch_size=self.batch,
            counters=((REQUESTS_COUNTER, float(self.requests)),),
        )


@dataclass(slots=True)
class SimReport:
    """Counts what happened."""

    requests: int = 0
    hits: int = 0  # the whole mixture was on the picked replica's device
    prefetches_per_tick: list[int] = field(default_factory=list)
    copies: list[dict[AdapterDigest, int]] = field(default_factory=list)  # desired, each tick
    replica_counts: list[int] = field(default_factory=list)  # asked for, each tick

    @property
    def hit_rate(self) -> float:
        """Share of requests that waited for no adapter."""
        return self.hits / self.requests if self.requests else 0.0


class Simulation:
    """A cluster in virtual time. ``chooser`` None: the real picker, with the reconciler at work."""

    def __init__(
        self,
        replicas: Sequence[SimReplica],
        adapters: Sequence[AdapterInfo],
        policy: ClusterPolicy,
        rng: random.Random,
        *,
        chooser: Chooser | None = None,
        tick_s: float = 1.0,
    ) -> None:
        self.replicas = {replica.replica_id: replica for replica in replicas}
        self.catalog = {info.digest: info for info in adapters}
        self.policy = policy
        self.reconciler = Reconciler()
        self.report = SimReport()
        self.now = 0.0
        self._rng = rng
        self._view = ClusterView()
        self._picker = Picker(policy.picking)
        self._chooser = chooser
        self._tick_s = tick_s
        self._next_tick = 0.0

    def run(self, streams: Sequence[Stream], duration_s: float) -> SimReport:
        """Serve the streams for so long; the report adds up over calls."""
        until = self.now + duration_s
        total = sum(stream.rate for stream in streams)
        while True:
            gap = self._rng.expovariate(total) if total > 0 else duration_s
            if self.now + gap >= until:
                self._pass_time(until)
                return self.report
            self._pass_time(self.now + gap)
            stream = self._rng.choices(streams, [stream.rate for stream in streams])[0]
            self._arrive(stream)

    def lose(self, replica_id: ReplicaId) -> None:
        """Remove a replica with all it held; its requests are not counted again.

        The reconciler misses its snapshots.
        """
        del self.replicas[replica_id]
        self._view.remove(replica_id)

    def add(self, replica: SimReplica) -> None:
        """Add a new, empty replica."""
        self.replicas[replica.replica_id] = replica

    def _pass_time(self, until: float) -> None:
        while self._next_tick <= until:
            self.now = self._next_tick
            self._tick()
            self._next_tick += self._tick_s
        self.now = until

    def _arrive(self, stream: Stream) -> None:
        mixture = tuple(sorted(stream.mixture))
        request = _Request(stream.tenant, mixture, RequestId(f"req-{self.report.requests}"))
        self._refresh()
        wanted = PickRequest(mixture, stream.tenant)
        if self._chooser is not None:
            chosen = self._chooser(self._view, mixture, self.now)
        else:
            chosen = self._picker.pick(self._view, wanted, self.now).replica_id
        self._view.sent(request.request_id, chosen, wanted, self.now)
        replica = self.replicas[chosen]
        self.report.requests += 1
        self.report.hits += replica.ready(mixture, self.now)
        replica.submit(request, self.catalog, self.now)

    def _refresh(self) -> None:
        for _, replica in sorted(self.replicas.items()):
            for request_id in replica.advance(self.catalog, self.now):
                self._view.finished(request_id)
            self._view.update(replica.snapshot(self.now), self.now)

    def _tick(self) -> None:
        self._refresh()
        if self._chooser is not None:
            return
        snapshots = [replica.snapshot(self.now) for _, replica in sorted(self.replicas.items())]
        actions = self.reconciler.tick(snapshots, self.catalog.values(), self.policy, self.now)
        for told in actions.replica_plans:
            if told.replica_id not in self.replicas:
                continue  # dead, and not missed yet
            loaded, failed, evicted = self.replicas[told.replica_id].apply(
                told, actions, self.catalog, self.now
            )
            self.reconciler.acknowledge(
                told.replica_id,
                told.version,
                loaded=loaded,
                failed=failed,
                evicted=evicted,
                policy=self.policy,
                now=self.now,
            )
        self.report.prefetches_per_tick.append(
            sum(1 for move in actions.moves if move.kind is MoveKind.PREFETCH)
        )
        self.report.copies.append({t.digest: t.copies for t in actions.copies})
        self.report.replica_counts.append(actions.replica_count)


def rendezvous_chooser(view: ClusterView, mixture: Mixture, now: float) -> ReplicaId:
    """Choose the first replica in the mixture's rendezvous order, whatever it holds."""
    ids = [replica.replica_id for replica in view.replicas()]
    return order(mixture_key(mixture), ids)[0]


def random_chooser(rng: random.Random) -> Chooser:
    """Return a chooser of any replica."""

    def choose(view: ClusterView, mixture: Mixture, now: float) -> ReplicaId:
        del mixture
        return rng.choice([replica.replica_id for replica in view.replicas()])

    return choose
