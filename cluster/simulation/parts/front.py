"""One simulated front: the real view, picker and demand counters, behind links with delays."""

import asyncio
from collections.abc import Callable, Mapping

from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import ReplicaId, RequestId, TenantId
from cluster.domain.replica import LINK_SILENCE_S, ReplicaSnapshot
from cluster.domain.request import FinishReason
from cluster.errors import BraidError, DeadlineExceeded, ReplicaLost
from cluster.expected_length import ExpectedLength
from cluster.placement.exchange import FrontId, FrontOrders
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.simulation.parts.ended_demand import count_ended
from cluster.simulation.parts.front_reports import ControllerCalls, FrontReports
from cluster.simulation.parts.front_rules import FrontPicks
from cluster.simulation.parts.front_waiting import FrontWaiting
from cluster.simulation.parts.tracked import Tracked
from cluster.simulation.replica.engine_port import EngineWork, SequenceNews
from cluster.simulation.replica.requests import WorkMaker, expected_end
from cluster.simulation.replica.simulated_replica import SimulatedReplica
from cluster.simulation.result import FRONT_LOST
from cluster.simulation.spec import Delays
from cluster.simulation.virtual.virtual_process import VirtualProcess
from cluster.tenancy.shares import weight_of
from cluster.waiting.patience import HURRY_S, MAX_FAILOVERS

OVERDUE_S = 5.0
"""After its deadline a request that no replica answers for is given up."""


class SimulatedFront:
    """Picks replicas for requests and follows them to their ends.

    Args:
        replicas: asks Serve for the replicas that run.
        on_end: hears of each request once it has ended.
        own_weights: of tenants, by their file.
    """

    def __init__(
        self,
        front_id: FrontId,
        process: VirtualProcess,
        picks: FrontPicks,
        replicas: Callable[[], list[SimulatedReplica]],
        controller: ControllerCalls,
        on_end: Callable[[Tracked], None],
        delays: Delays,
        works: WorkMaker,
        own_weights: Mapping[TenantId, float],
    ) -> None:
        self.front_id = front_id
        self.process = process
        self._picks = picks
        self._replicas = replicas
        self._on_end = on_end
        self._delays = delays
        self._works = works
        self._own_weights = own_weights
        self._view = ClusterView()
        self._links: dict[ReplicaId, SimulatedReplica] = {}
        self._live: dict[RequestId, Tracked] = {}  # at replicas
        self._picking: dict[int, Tracked] = {}  # arrived, and not at a replica yet
        self._tasks: dict[int, asyncio.Task[None]] = {}  # of these, which pick or wait
        self._looks = 0  # names the look for replicas that is awaited
        self._lengths = ExpectedLength()
        self._orders = FrontOrders(0, 0)
        self._waiting = FrontWaiting(
            process,
            self._view,
            picks,
            lambda: self._orders,
            lambda: self._reports.send(),
            lambda: self._look_again(0.0),
        )
        process.after(0.0, self._discover, self._looks)
        self._reports = FrontReports(
            front_id,
            process,
            controller,
            picks.recent,
            lambda: self._waiting.count_wishes(),
            self._follow,
            delays.exchange_s,
            own_weights,
        )

    @property
    def held(self) -> int:
        """Return the requests that wait for a replica."""
        return len(self._waiting)

    # The way of a request

    def arrive(self, tracked: Tracked) -> None:
        """Take a request; it is picked for once it is read and decided."""
        self._picking[tracked.index] = tracked
        self.process.after(self._delays.front_s, self._begin, tracked)

    def _begin(self, tracked: Tracked) -> None:
        tracked.decided_at = self.process.loop.now
        self._reports.demand.arrive(tracked.key, tracked.asked.prompt_tokens)
        self._send(tracked)

    def _send(self, tracked: Tracked) -> None:
        """Find a replica for a request and hand it over, or end it."""
        request = self._pick_request(tracked)
        chosen = self._waiting.pick_at_once(request)
        if chosen is not None:
            self._join_replica(tracked, chosen, request)
        elif (task := self.process.loop.start(self._find_replica(tracked))) is not None:
            self._tasks[tracked.index] = task

    async def _find_replica(self, tracked: Tracked) -> None:
        tenant = tracked.key.tenant
        try:
            with self._waiting.places.place(tenant, self._weight(tenant)) as place:
                chosen, request = await self._waiting.pick(
                    lambda: self._pick_request(tracked),
                    tenant,
                    place,
                    lambda: max(0.0, tracked.deadline - self.process.loop.now),
                )
                self._join_replica(tracked, chosen, request)
        except BraidError as error:
            self._end(tracked, error.code)

    def _join_replica(self, tracked: Tracked, chosen: ReplicaId, request: PickRequest) -> None:
        now = self.process.clock.monotonic()
        del self._picking[tracked.index]
        self._tasks.pop(tracked.index, None)
        tracked.attempts += 1
        tracked.replica = chosen
        tracked.request_id = RequestId(f"{tracked.index}-{tracked.attempts}")
        tracked.cold = self._picks.note_sent(self._view, request, chosen, now)
        self._live[tracked.request_id] = tracked
        self._view.sent(tracked.request_id, chosen, request, now)
        self._submit(tracked, self._links[chosen])

    def _pick_request(self, tracked: Tracked) -> PickRequest:
        asked = tracked.asked
        expected = self._lengths.expect(tracked.key, asked.max_tokens)
        return PickRequest(
            tracked.key.adapters,
            tracked.key.tenant,
            exclude=tracked.failed.excluded(self._view),
            prompt_tokens=asked.prompt_tokens + tracked.generated,
            expected_tokens=max(1, expected - tracked.generated),
            prefix=self._works.prefix_keys(asked, tracked.key),
        )

    def _submit(self, tracked: Tracked, replica: SimulatedReplica) -> None:
        left = tracked.deadline - self.process.loop.now
        work = self._works.make(
            tracked.asked,
            tracked.index,
            tracked.key,
            tracked.request_id,
            weight=self._weight(tracked.key.tenant),
            itl_s=self._orders.promised_itl(tracked.key.tenant),
            resumed=tracked.generated,
            deadline_at=replica.process.clock.monotonic() + left,
        )
        replica.process.after(self._delays.hop_s, self._reach, tracked, replica, work)

    def _reach(self, tracked: Tracked, replica: SimulatedReplica, work: EngineWork) -> None:
        """Hand a request over; runs in the replica's process."""
        if not self.process.alive or self._live.get(work.request.request_id) is not tracked:
            return
        tracked.queued_at, tracked.began_at = self.process.loop.now, None
        tracked.tier_found = replica.tier_of(tracked.key.adapters)
        replica.submit(work, tracked.key.adapters, self)

    def _weight(self, tenant: TenantId) -> float:
        return weight_of(self._own_weights.get(tenant), self._orders.tier_weight(tenant))

    def _end(self, tracked: Tracked, outcome: str) -> None:
        self._live.pop(tracked.request_id, None)
        self._picking.pop(tracked.index, None)
        self._tasks.pop(tracked.index, None)
        tracked.end(outcome, self.process.loop.now)
        count_ended(self._reports.demand, tracked)
        self._on_end(tracked)

    # From replicas

    def hear_step(
        self, replica_id: ReplicaId, news: list[SequenceNews], running: int, queued: int
    ) -> None:
        """Take in what a step brought, and the load that it leaves."""
        if replica_id not in self._links:
            return
        for item in news:
            if (tracked := self._live.get(item.request_id)) is not None:
                self._hear_request(tracked, item)
        self._view.hear_load(replica_id, running, queued, self.process.clock.monotonic())
        self._waiting.note_change(replica_id)

    def _hear_request(self, tracked: Tracked, news: SequenceNews) -> None:
        tracked.generated = news.generated
        tracked.cached_tokens = max(tracked.cached_tokens, news.cached_tokens)
        tracked.began_at = news.began_at
        now = self.process.loop.now
        if tracked.first_token_at is None and news.generated:
            tracked.first_token_at = now
        if news.reason is None:
            return
        self._view.finished(tracked.request_id)
        if news.reason in (FinishReason.STOP, FinishReason.LENGTH):
            limit = tracked.asked.max_tokens
            self._lengths.observe(tracked.key, tracked.generated, limit)
            self._end(tracked, "ok")
        elif news.reason is FinishReason.DEADLINE:
            self._end(tracked, DeadlineExceeded.code)
        else:
            self._end(tracked, news.error or "cancelled")

    def hear_snapshot(
        self, snapshot: ReplicaSnapshot, on_host: tuple[ResidentAdapter, ...] | None
    ) -> None:
        """Take in a snapshot; ``on_host`` is None if it has not changed."""
        if snapshot.replica_id not in self._links:
            return
        self._view.update(snapshot, self.process.clock.monotonic())
        if on_host is not None:
            there = (a.digest for a in on_host if a.state is AdapterState.ON_HOST)
            self._view.set_on_host(snapshot.replica_id, there)
        self._waiting.note_change(snapshot.replica_id)

    def hear_lost(self, replica: SimulatedReplica) -> None:
        """Take in that a link has ended: its requests continue on other replicas."""
        replica_id = replica.replica_id
        if self._links.pop(replica_id, None) is None:
            return
        known = self._view.snapshot(replica_id)
        planned = known is not None and known.draining
        self._view.remove(replica_id)
        self._waiting.note_change(replica_id)
        self._reports.note_dead(replica_id)
        for tracked in [t for t in self._live.values() if t.replica == replica_id]:
            del self._live[tracked.request_id]
            tracked.generated = max(tracked.generated, replica.generated(tracked.request_id))
            tracked.failed.add(replica_id, planned=planned)
            self._picking[tracked.index] = tracked
            if tracked.generated >= expected_end(tracked.asked) > 0:
                tracked.generated = expected_end(tracked.asked) - 1  # its end did not arrive
            if tracked.failed.unplanned > MAX_FAILOVERS:
                self._end(tracked, ReplicaLost.code)
            else:
                self._send(tracked)

    def _look_again(self, seconds: float) -> None:
        self._looks += 1
        self.process.after(seconds, self._discover, self._looks)

    def _discover(self, look: int) -> None:
        if look != self._looks:
            return
        for replica in self._replicas():
            if replica.replica_id not in self._links and replica.process.responds:
                self._links[replica.replica_id] = replica
                replica.process.after(self._delays.hop_s, replica.connect, self)
        self._lose_silent()
        self._give_up()
        self._look_again(HURRY_S if self._waiting.hurries else self._delays.discovery_s)

    def _lose_silent(self) -> None:
        """Give up the links on which nothing has come for too long."""
        since = self.process.clock.monotonic() - LINK_SILENCE_S
        for known in self._view.replicas():
            if known.heard_at < since and known.replica_id in self._links:
                replica = self._links[known.replica_id]
                replica.process.after(0.0, replica.disconnect, self)
                self.hear_lost(replica)

    def _give_up(self) -> None:
        """End what is long overdue: its replica does not say anything."""
        now = self.process.loop.now
        for tracked in [t for t in self._live.values() if now > t.deadline + OVERDUE_S]:
            self._view.finished(tracked.request_id)
            self._end(tracked, DeadlineExceeded.code)

    def _follow(self, orders: FrontOrders) -> None:
        """Take in the controller's answer."""
        self._orders = orders
        self._view.follow(orders)
        self._picks.follow(orders)
        self._waiting.places.follow(orders.picking.max_queued)
        for replica_id in self._links:
            self._waiting.note_change(replica_id)

    def die(self) -> list[Tracked]:
        """End the process; returns the requests that are lost with it."""
        self.process.kill()
        self._waiting.close()
        for task in self._tasks.values():
            task.cancel()
        lost = [*self._live.values(), *self._picking.values()]
        for tracked in lost:
            tracked.end(FRONT_LOST, self.process.loop.now)
        after_s = self._delays.link_lost_s
        for replica in self._links.values():
            replica.process.after(after_s, replica.disconnect, self)
        return lost
