"""A small cluster in virtual time whose steps take longer the more sequences they compute.

Replicas evict by the real pool's order. A request waits for its adapters, which load two at a
time, then for a place in the batch; each step gives every sequence of the batch a token. A replica
speaks after each step and each load and each second, and is heard at once.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.adapters.residency.eviction import EvictionPolicy
from cluster.adapters.residency.ledger import AdapterLedger
from cluster.adapters.residency.residency_types import SizedVersion
from cluster.clock import ManualClock
from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, ReplicaId, RequestId, TenantId
from cluster.domain.replica import HEARTBEAT_S, ReplicaSnapshot
from cluster.placement.cost.model import CostModel, LoadCost, StepCost

NBYTES = 10_000_000
SHARE_WINDOW_S = 60.0
PARALLEL_LOADS = 2
MODEL = CostModel(
    step=StepCost(0.022, 0.0, 0.001, 0.0, 0.0, 0.0),
    host_load=LoadCost(0.35, 0.0),
    disk_load=LoadCost(0.35, 0.0),
)
"""Steps of 22 ms and 1 ms for each sequence; a load takes as long from wherever."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request of the load."""

    at: float
    tenant: TenantId
    digests: tuple[AdapterDigest, ...]  # distinct, sorted
    prompt: int
    tokens: int


@dataclass(slots=True, eq=False)
class Request:
    """A request on its way."""

    id: RequestId
    arrival: Arrival
    left: int
    whole: bool = False  # all of its adapters were on the device when it came
    claim: int | None = None
    started: float | None = None  # its first step
    first: float | None = None  # its first token
    ended: float | None = None
    met: bool = False  # another tenant's request was there before its first token


class Chooser(Protocol):
    """Chooses replicas as a front does."""

    def update(self, snapshot: ReplicaSnapshot, now: float) -> None:
        """Take in a replica's word."""
        ...

    def choose(self, request: Request, now: float) -> ReplicaId:
        """Return the replica for a request, and count it as sent there."""
        ...

    def finished(self, request_id: RequestId) -> None:
        """Take in that a request has ended."""
        ...


@dataclass
class StepReplica:
    """One replica."""

    id: ReplicaId
    slots: int
    batch: int
    model: CostModel
    clock: ManualClock
    ledger: AdapterLedger = field(init=False)
    waiting: list[Request] = field(default_factory=list)  # for adapters
    queue: deque[Request] = field(default_factory=deque)  # for the batch
    running: list[Request] = field(default_factory=list)
    loading: dict[AdapterDigest, float] = field(default_factory=dict)  # and when it is done
    to_load: deque[AdapterDigest] = field(default_factory=deque)
    stepping: bool = False
    loads: int = 0
    sequence: int = 0

    def __post_init__(self) -> None:
        memory = self.slots * NBYTES
        self.ledger = AdapterLedger("device", memory, self.slots, SHARE_WINDOW_S, self.clock)
        self._eviction = EvictionPolicy(self.ledger)

    def requests(self) -> list[Request]:
        """Return all that are here."""
        return [*self.waiting, *self.queue, *self.running]

    def is_ready(self, digest: AdapterDigest) -> bool:
        """Return whether an adapter is on the device."""
        resident = self.ledger.residents.get(digest)
        return resident is not None and resident.state is AdapterState.READY

    def arrive(self, request: Request) -> None:
        """Take in a request."""
        request.whole = all(map(self.is_ready, request.arrival.digests))
        request.met = self._meets(request)
        for other in self.requests():
            if other.first is None and other.arrival.tenant != request.arrival.tenant:
                other.met = True
        self.waiting.append(request)
        self.admit()

    def _meets(self, request: Request) -> bool:
        return any(o.arrival.tenant != request.arrival.tenant for o in self.requests())

    def admit(self) -> None:
        """Queue those that wait and have their adapters, after claiming them in order."""
        for request in list(self.waiting):
            digests = request.arrival.digests
            if request.claim is None and not self._claim(request):
                continue
            if all(map(self.is_ready, digests)):
                self.waiting.remove(request)
                self.queue.append(request)
        while self.queue and len(self.running) < self.batch:
            self.running.append(self.queue.popleft())

    def _claim(self, request: Request) -> bool:
        tenant, digests = request.arrival.tenant, request.arrival.digests
        wanted = [SizedVersion(d, d, 8, NBYTES) for d in digests]
        absent = [v for v in wanted if v.digest not in self.ledger.residents]
        if absent and max(self.ledger.shortage(absent)) > 0:
            victims = self._eviction.choose_evictions(wanted, tenant, can_wait=False)
            if victims is None:
                return False
            for digest in victims:
                self.ledger.count_eviction(digest)
                self.ledger.remove(digest)
        for version in absent:
            self.ledger.reserve(version, tenant)
            self.to_load.append(version.digest)
            self.loads += 1
        request.claim = self.ledger.claim(frozenset(digests), tenant)
        self.ledger.note_use(digests, tenant)
        return True

    def start_loads(self) -> list[float]:
        """Start the loads that may run; returns when they will be done."""
        done = []
        while self.to_load and len(self.loading) < PARALLEL_LOADS:
            digest = self.to_load.popleft()
            self.ledger.change_state(digest, AdapterState.FETCHING, AdapterState.LOADING)
            at = self.clock.monotonic() + self.model.disk_load.seconds(NBYTES)
            self.loading[digest] = at
            done.append(at)
        return done

    def end_loads(self) -> None:
        """Make ready what has been loaded by now."""
        now = self.clock.monotonic()
        for digest, at in list(self.loading.items()):
            if at <= now:
                del self.loading[digest]
                self.ledger.change_state(digest, AdapterState.LOADING, AdapterState.READY)
        self.admit()

    def begin_step(self) -> float | None:
        """Begin a step if there is anything to compute; returns its end."""
        if self.stepping or not self.running:
            return None
        now, step = self.clock.monotonic(), self.model.step
        prompts = 0
        for request in self.running:
            if request.started is None:
                request.started = now
                prompts += request.arrival.prompt
        self.stepping = True
        rows = step.per_decode_row * len(self.running)
        return now + step.per_step + rows + step.per_prefill_token * prompts

    def end_step(self) -> list[Request]:
        """End the step; returns the requests that are done."""
        now = self.clock.monotonic()
        self.stepping = False
        done = []
        for request in self.running:
            if request.started is None:
                continue  # it came while the step ran
            request.left -= 1
            if request.first is None:
                request.first = now
            if request.left <= 0:
                request.ended = now
                assert request.claim is not None
                self.ledger.end_claim(request.claim)
                done.append(request)
        self.running = [request for request in self.running if request.ended is None]
        self.admit()
        return done

    def snapshot(self) -> ReplicaSnapshot:
        """Return the replica's account of itself."""
        self.sequence += 1
        unread: dict[TenantId, int] = {}
        for request in self.requests():
            if request.first is None:
                tenant = request.arrival.tenant
                unread[tenant] = unread.get(tenant, 0) + request.arrival.prompt
        return ReplicaSnapshot(
            replica_id=self.id,
            address="",
            queued=len(self.queue) + len(self.waiting),
            running=len(self.running),
            kv_blocks_total=self.batch,
            kv_blocks_free=self.batch - len(self.running),
            slots_total=self.slots,
            adapter_bytes_limit=self.ledger.memory_bytes,
            adapter_bytes_used=self.ledger.bytes_used,
            resident=self.ledger.resident_adapters(),
            draining=False,
            sequence=self.sequence,
            max_batch_size=self.batch,
            backlog=tuple(unread.items()),
            loading_bytes=NBYTES * (len(self.loading) + len(self.to_load)),
        )


class StepCluster:
    """Serves arrivals with one chooser."""

    def __init__(
        self,
        chooser: Chooser,
        *,
        replicas: int = 3,
        slots: int = 8,
        batch: int = 16,
        model: CostModel = MODEL,
    ) -> None:
        self.clock = ManualClock(0.0)
        self.replicas = {
            name: StepReplica(name, slots, batch, model, self.clock)
            for name in (ReplicaId(f"replica-{number}") for number in range(replicas))
        }
        self._chooser = chooser
        self._events: list[tuple[float, int, str, Any]] = []
        self._numbers = itertools.count()
        self.served: list[Request] = []

    @property
    def loads(self) -> int:
        """Return the adapters loaded so far."""
        return sum(replica.loads for replica in self.replicas.values())

    def serve(self, arrivals: Sequence[Arrival]) -> list[Request]:
        """Serve all; returns them as they ended."""
        for replica in self.replicas.values():
            self._chooser.update(replica.snapshot(), self.clock.monotonic())
        for arrival in arrivals:
            self._at(arrival.at, "arrive", arrival)
        for second in range(math.ceil(arrivals[-1].at) if arrivals else 0):
            self._at(second * HEARTBEAT_S, "heartbeat", None)
        while self._events:
            at, _, kind, subject = heapq.heappop(self._events)
            self.clock.advance(max(0.0, at - self.clock.monotonic()))
            if kind == "arrive":
                self._arrive(subject)
            elif kind == "heartbeat":
                for replica in self.replicas.values():
                    self._chooser.update(replica.snapshot(), at)
            elif kind == "step":
                for request in subject.end_step():
                    self._chooser.finished(request.id)
                    self.served.append(request)
                self._go_on(subject)
            else:
                subject.end_loads()
                self._go_on(subject)
        return self.served

    def _arrive(self, arrival: Arrival) -> None:
        request = Request(RequestId(str(next(self._numbers))), arrival, arrival.tokens)
        replica = self.replicas[self._chooser.choose(request, self.clock.monotonic())]
        replica.arrive(request)
        self._go_on(replica)

    def _go_on(self, replica: StepReplica) -> None:
        for done in replica.start_loads():
            self._at(done, "load", replica)
        end = replica.begin_step()
        if end is not None:
            self._at(end, "step", replica)
        self._chooser.update(replica.snapshot(), self.clock.monotonic())

    def _at(self, at: float, kind: str, subject: object) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), kind, subject))
