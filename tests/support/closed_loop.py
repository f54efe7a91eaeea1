"""A cluster in virtual time around the real controller: what it decides is what it sees next."""

import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.domain.replica import ReplicaSnapshot
from cluster.domain.work import StepTotals, WorkTotals
from cluster.placement.control.drain import ServeReplica, ServeReplicas, leaving_order
from cluster.placement.control.reconciler import Reconciler
from cluster.placement.control.serve_counts import ServeCounts
from cluster.placement.cost.model import CostModel, StepCost
from cluster.placement.demand.counters import DemandCounters
from cluster.placement.demand.demand import DemandKey, DemandRate
from cluster.placement.demand.work_model import WorkModel, operating_batch
from cluster.placement.exchange import FrontId, FrontOrders
from cluster.placement.front_reporter import FrontReporter
from cluster.placement.picking.recent_picks import RecentPicks
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import ClusterPolicy
from tests.support.scale_loop import MONDAY, SHAPE, ready_adapter

HELD_S = 30.0
TENANT = TenantId("acme")  # of all that waits
MOST_WAITING = 1024
"""Requests that wait for one replica, at most; more are refused."""


@dataclass
class _LoopReplica:
    """One replica, there from ``ready_at`` on; ``work`` has the features of its steps."""

    name: ReplicaId
    ready_at: float
    sequence: int = 0
    work: list[float] = field(default_factory=lambda: [0.0] * 6)


@dataclass
class _LoopRequest:
    """A request that runs, waits or is held, and the seconds of a replica that it still takes."""

    key: DemandKey
    came_at: float
    left_s: float


@dataclass
class ClosedLoop:
    """One front and one controller. Replicas take ``true.start_s`` to start, and share all work.

    Each serves ``batch`` requests at once, the others wait. All pools are one cache of the last
    adapters. The newest replica alone holds them if ``drains``, so that none leaves before its time
    to hand over has gone by.
    """

    policy: ClusterPolicy
    true: CostModel = field(default_factory=CostModel)
    prior: CostModel | None = None  # what the controller guesses at first; None: the truth
    sizes: Mapping[AdapterDigest, int] = field(default_factory=dict)
    count: int = 1
    look_s: float = 5.0
    prompt_tokens: int = 100
    generated_tokens: int = 50
    drains: bool = False

    def __post_init__(self) -> None:
        self.now = 0.0
        self.counts: list[tuple[float, int]] = []
        self.ttft = 0.0  # that a request has which comes now, in truth
        self.answered = self.refused = 0
        self._counters, self._picks = DemandCounters(), RecentPicks()
        self._reporter = FrontReporter(FrontId("f"), self._counters, self._picks)
        self._orders = FrontOrders(0, 0, tiers=self.policy.tenants)
        mode = "on" if self.drains else "off"
        placement = self.policy.placement.model_copy(update={"mode": mode})
        self.policy = self.policy.model_copy(update={"placement": placement})
        self._epoch = 0
        self.reconciler = self._begin()
        self._names = itertools.count()
        self._replicas: list[_LoopReplica] = []
        self._hand_on(self.count)
        for replica in self._replicas:
            replica.ready_at = 0.0
        self._queue: deque[_LoopRequest] = deque()
        self._held: deque[_LoopRequest] = deque()
        self._cached: OrderedDict[AdapterDigest, None] = OrderedDict()
        self._catalog: dict[AdapterDigest, AdapterInfo] = {}
        self._owed: dict[DemandKey, float] = {}
        itl_s = min(tier.itl for tier in self.policy.tiers.values())
        self._true = self._work_model(self.true.step, itl_s)
        self._costs: dict[DemandKey, float] = {}

    # What comes

    def arrive(self, key: DemandKey, requests: int = 1) -> None:
        """Let requests come now."""
        for digest in key.adapters:
            self._catalog.setdefault(
                digest, AdapterInfo(digest, str(digest), key.tenant, self.sizes.get(digest, 0))
            )
        if key not in self._costs:
            self._costs[key] = self._true.request_seconds(self._rate(key))
        for _ in range(requests):
            self._counters.arrive(key, self.prompt_tokens)
            request = _LoopRequest(key, self.now, self._costs[key])
            if not self.ready:
                self._held.append(request)
            elif len(self._queue) >= MOST_WAITING * self.ready:
                self._counters.refuse(key)
                self.refused += 1
            else:
                self._send(request)

    def flow(self, key: DemandKey, rate: float) -> None:
        """Let requests come at exactly this rate until the next look."""
        owed = self._owed.get(key, 0.0) + rate * self.look_s
        self.arrive(key, int(owed + 1e-9))
        self._owed[key] = owed - int(owed + 1e-9)

    def run(
        self, seconds: float, flows: Callable[[float], Iterable[tuple[DemandKey, float]]]
    ) -> None:
        """Let so many seconds go by."""
        end = self.now + seconds
        while self.now < end:
            for key, rate in flows(self.now):
                self.flow(key, rate)
            self.look()

    # What the cluster does

    @property
    def ready(self) -> int:
        """Return how many replicas serve."""
        return len(self._serving())

    def restart(self, *, remembers: bool) -> None:
        """Begin another life of the controller, with or without what this one wrote."""
        before = self.reconciler
        self.reconciler = self._begin()
        if remembers:
            self.reconciler.restore_demand(before.demand_state(self.now), self.now)
            self.reconciler.costs.restore(before.costs.to_state())

    def look(self) -> int:
        """Serve until the next look, have the count decided, and carry it out."""
        self._serve_until(self.now + self.look_s)
        report = self._reporter.compose(len(self._held), self.now)
        self._orders = self.reconciler.hear_front(report, self.now)
        if self._reporter.take(self._orders):
            self.reconciler.hear_front(self._reporter.compose(len(self._held), self.now), self.now)
        for snapshot in self._snapshots():
            self.reconciler.hear_replica(snapshot, self.now)
        ready = self.ready
        actions = self.reconciler.tick(
            self._catalog.values(),
            self.policy,
            ServeCounts(self.count, ready, len(self._replicas) - ready),
            self.now,
            MONDAY + timedelta(seconds=self.now),
            replicas=self._listed(),
        )
        self._hand_on(actions.replica_count)
        self.counts.append((self.now, actions.replica_count))
        return actions.replica_count

    def changes_after(self, moment: float) -> list[tuple[int, int]]:
        """Return the changes of the count after a moment, as (before, after)."""
        numbers = [count for at, count in self.counts if at >= moment]
        return [(a, b) for a, b in itertools.pairwise(numbers) if a != b]

    def _serving(self) -> list[_LoopReplica]:
        return [replica for replica in self._replicas if replica.ready_at <= self.now]

    def _begin(self) -> Reconciler:
        self._epoch += 1
        if self.prior is None:
            return Reconciler(self._epoch, self.true, source="profile", policy=self.policy)
        return Reconciler(self._epoch, self.prior, policy=self.policy)

    def _rate(self, key: DemandKey) -> DemandRate:
        return DemandRate(key, 0.0, 0.0, 0.0, self.prompt_tokens, self.generated_tokens)

    def _work_model(self, step: StepCost, itl_s: float) -> WorkModel:
        blocks = (self.prompt_tokens + self.generated_tokens / 2) / SHAPE.block_size
        most = SHAPE.max_batch_size
        batch = operating_batch(step, itl_s=itl_s, most=most, context_blocks=blocks)
        return WorkModel(step, batch, SHAPE.block_size, self.sizes)

    def _send(self, request: _LoopRequest) -> None:
        """Send a request to the replicas; its adapters are loaded where they are missing."""
        whole = all(digest in self._cached for digest in request.key.adapters)
        for digest in request.key.adapters:
            self._cached[digest] = None
            self._cached.move_to_end(digest)
        while len(self._cached) > self.ready * SHAPE.slots:
            self._cached.popitem(last=False)
        self._queue.append(request)
        self._picks.follow(self._orders.tiers)
        predicted = self._predict(self._orders.model, request.key)
        tenant = str(request.key.tenant)
        self._picks.note(tenant, whole=whole, predicted_ttft=predicted, now=self.now)

    def _waiting(self) -> int:
        """Return how many requests wait, since batches are full."""
        return max(0, len(self._queue) - self.ready * self._true.batch)

    def _predict(self, model: CostModel, key: DemandKey) -> float:
        """Return the time to the first token by a model, as a front that picks knows it."""
        work = WorkModel(model.step, self._true.batch, SHAPE.block_size, self.sizes)
        slow = max((model.slowness_of(replica.name) for replica in self._replicas), default=1.0)
        wait_s = self._waiting() * work.request_seconds(self._rate(key)) / self.ready
        own_s = self.prompt_tokens * model.step.per_prefill_token + model.step.per_step
        return slow * (wait_s + own_s)

    def _serve_until(self, end: float) -> None:
        if self.ready:
            self._work_off(self.ready * (end - self.now))
        self.now = end
        while self.ready and self._held:
            self._send(self._held.popleft())
        while self._held and end - self._held[0].came_at >= HELD_S:
            self._counters.refuse(self._held.popleft().key)
            self.refused += 1
        if self.ready and self._costs:
            self.ttft = self._predict(self.true, next(iter(self._costs)))

    def _work_off(self, seconds: float) -> None:
        done = [0.0] * 6
        while self._queue and seconds > 1e-12:
            request = self._queue[0]
            took = min(seconds, request.left_s)
            seconds -= took
            request.left_s -= took
            share = took / self._costs[request.key]
            steps = self.generated_tokens / self._true.batch
            nbytes = sum(self.sizes.get(digest, 0) for digest in request.key.adapters)
            blocks = (self.prompt_tokens + self.generated_tokens / 2) / SHAPE.block_size
            rows = self.generated_tokens
            more = (steps, self.prompt_tokens, rows, rows * blocks, steps * nbytes, 0.0)
            done = [before + share * one for before, one in zip(done, more, strict=True)]
            done[5] += took
            if request.left_s <= 1e-12:
                self._queue.popleft()
                self._counters.finish(request.key, self.generated_tokens)
                self.answered += 1
        for replica in self._serving():
            replica.work = [a + b / self.ready for a, b in zip(replica.work, done, strict=True)]

    def _snapshots(self) -> Iterable[ReplicaSnapshot]:
        serving, waiting = self._serving(), self._waiting()
        running = len(self._queue) - waiting
        for number, replica in enumerate(serving):
            replica.sequence += 1
            queued = (waiting + number) // len(serving)
            steps, tokens, rows, blocks, nbytes = (round(value) for value in replica.work[:5])
            holds = self.drains and replica is serving[-1]
            yield ReplicaSnapshot(
                replica.name,
                "",
                queued=queued,
                running=(running + number) // len(serving),
                kv_blocks_total=1,
                kv_blocks_free=1,
                slots_total=SHAPE.slots,
                adapter_bytes_limit=SHAPE.adapter_bytes,
                adapter_bytes_used=0,
                resident=tuple(map(ready_adapter, self._cached)) if holds else (),
                draining=False,
                sequence=replica.sequence,
                max_batch_size=SHAPE.max_batch_size,
                backlog=((TENANT, queued * self.prompt_tokens),),
                work=WorkTotals(
                    StepTotals(steps)  # there is nothing to learn
                    if self.prior is None
                    else StepTotals(steps, tokens, rows, blocks, nbytes, seconds=replica.work[5])
                ),
                block_size=SHAPE.block_size,
                device="cpu",
            )

    def _listed(self) -> ServeReplicas:
        return ServeReplicas(
            tuple(ServeReplica(r.name, "n", running=r.ready_at <= self.now) for r in self._replicas)
        )

    def _hand_on(self, count: int) -> None:
        self.count = count
        leaving = leaving_order(self._listed())[: max(0, len(self._replicas) - count)]
        self._replicas = [one for one in self._replicas if one.name not in leaving]
        while len(self._replicas) < count:
            name = ReplicaId(f"r{next(self._names)}")
            self._replicas.append(_LoopReplica(name, self.now + self.true.start_s))
