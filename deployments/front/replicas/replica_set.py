"""Keeps track of the replicas: who exists, an open link to each, and the pick."""

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import Awaitable, Callable, Iterable

import structlog

from cluster.clock import Clock
from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.domain.replica import PickExplanation, ReplicaChoice, ReplicaSnapshot
from cluster.placement.exchange import FrontOrders
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.picking.picker import Picker
from cluster.tenancy.waiting_places import WaitingPlace, WaitingPlaces
from cluster.waiting.first_replica import FirstReplica
from cluster.waiting.patience import HURRY_S
from cluster.waiting.queue_room import QueueRoom
from deployments.link.link_client import ReplicaLink

log = structlog.get_logger(__name__)

DEVICE, LOADING, HOST, DISK, BASE = "device", "loading", "host", "disk", "base"
_TIERS = {
    AdapterState.READY: DEVICE,
    AdapterState.LOADING: LOADING,
    AdapterState.FETCHING: LOADING,
    AdapterState.ON_HOST: HOST,
}

Discover = Callable[[], Awaitable[Iterable[ReplicaSnapshot]]]


class ReplicaSet:
    """Discovers replicas, keeps links to them, and picks one for a request.

    Args:
        discover: asks every running replica for a snapshot of itself.
        picker: chooses among those known; its view is fed from the links.
        signing_key: opens the links.
        interval_s: seconds between discoveries.
        on_pick: called with every pick.
    """

    def __init__(
        self,
        discover: Discover,
        picker: Picker,
        signing_key: bytes,
        clock: Clock,
        *,
        interval_s: float,
        on_pick: Callable[[ReplicaChoice], None] | None = None,
    ) -> None:
        self._discover = discover
        self._picker = picker
        self._signing_key = signing_key
        self._clock = clock
        self._interval_s = interval_s
        self._links: dict[ReplicaId, ReplicaLink] = {}
        self._host_tiers: dict[ReplicaId, tuple[ResidentAdapter, ...]] = {}
        look_s = min(interval_s, HURRY_S)
        self._first = FirstReplica(lambda: self.ready, clock, look_s)
        self._room = QueueRoom(
            has_room=self._has_room,
            any_room=self._any_room,
            is_ready=lambda: self.ready,
            clock=clock,
            interval_s=look_s,
        )
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._on_pick = on_pick
        self._rng = random.Random()
        self.view = ClusterView()
        self.places = WaitingPlaces(picker.policy.max_queued)
        """Bound the sequences that wait here, whatever for."""
        self.on_lost: Callable[[ReplicaId], None] = lambda _: None
        """Hears of each replica whose link has ended."""

    def start(self) -> None:
        """Begin discovering."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop discovering and close every link."""
        if self._task is not None:
            self._task.cancel()
        self._first.close()
        self._room.close()
        for link in list(self._links.values()):
            await link.close()
        self._links.clear()

    @property
    def ready(self) -> bool:
        """Return whether at least one replica can be reached and is not about to end."""
        return any(link.open and not self._ends(name) for name, link in self._links.items())

    async def wait_ready(self, timeout_s: float, tenant: TenantId | None = None) -> bool:
        """Wait until a replica can be reached, and look for one often; return whether one can."""
        self._hurry.set()
        return await self._first.wait(timeout_s, tenant)

    def snapshots(self) -> tuple[ReplicaSnapshot, ...]:
        """Return the latest snapshot of every linked replica."""
        return tuple(replica.latest for replica in self.view.replicas())

    def on_host(self, replica_id: ReplicaId) -> tuple[ResidentAdapter, ...]:
        """Return what a replica last said it has in host memory."""
        return self._host_tiers.get(replica_id, ())

    def holdings(self) -> tuple[ReplicaSnapshot, ...]:
        """Return ``snapshots`` with adapters in host memory alone as well as those in slots."""
        return tuple(_with_host(item, self.on_host(item.replica_id)) for item in self.snapshots())

    def _tier_found(self, replica_id: ReplicaId, digests: Iterable[AdapterDigest]) -> str:
        """Return where the worst of some adapters is on a replica, as far as this front knows.

        That is ``disk``, ``host``, ``loading`` or ``device``; ``base`` for none at all.
        """
        replica = self.view.get(replica_id)
        held = {} if replica is None else replica.held

        def tier_of(digest: AdapterDigest) -> str:
            if digest in held:
                return _TIERS.get(held[digest].state, DISK)
            copies = self.on_host(replica_id)
            return HOST if any(c.digest == digest and c.state in _TIERS for c in copies) else DISK

        found = set(map(tier_of, digests))
        return next((tier for tier in (DISK, HOST, LOADING, DEVICE) if tier in found), BASE)

    async def pick(
        self, request: PickRequest, *, wait_s: float, place: WaitingPlace | None = None
    ) -> tuple[ReplicaChoice, ReplicaLink]:
        """Pick the replica for a request; waits while none of those that can be reached takes it.

        Those who wait continue in the order of ``WaitingLine``, once a queue has room. Count the
        request as sent (``view.sent``) before the event loop runs again.

        Args:
            place: taken if the request has to wait.

        Raises:
            ReplicaLost: no replica fitted for ``wait_s`` seconds, or none can be reached.
            Overloaded: the queues of all replicas stayed full for as long, or too many sequences
                of the tenant wait already.
        """
        if self._rng.random() < self._picker.policy.explain:  # for the request log
            request = request._replace(explain=True)
        return await self._room.pick(
            request.tenant, lambda: self._pick_now(request), wait_s=wait_s, place=place
        )

    def _pick_now(self, request: PickRequest) -> tuple[ReplicaChoice, ReplicaLink]:
        choice = self._picker.pick(self.view, request, self._clock.monotonic())
        found = self._tier_found(choice.replica_id, request.digests)
        choice = choice._replace(tier_found=found)
        if self._on_pick is not None:
            self._on_pick(choice)
        return choice, self._links[choice.replica_id]

    def explain(self, request: PickRequest) -> PickExplanation:
        """Return how a request would be picked now, and send nothing."""
        return self._picker.explain(self.view, request, self._clock.monotonic())

    def follow_orders(self, orders: FrontOrders) -> None:
        """Pick by the controller's costs and policy from now on."""
        self.view.follow(orders)
        self._picker.follow(orders.picking)
        self.places.follow(orders.picking.max_queued)
        for replica_id in self._links:
            self._room.note_change(replica_id)

    async def _run(self) -> None:
        failure = ""
        while True:
            try:
                self._reconcile(list(await self._discover()))
                failure = ""
            except Exception as error:  # Ray raises many kinds; the next look may succeed
                if repr(error) != failure:  # one line for a failure that goes on
                    log.warning("replicas.discovery_failed", error=repr(error))
                failure = repr(error)
            await self._pause()

    async def _pause(self) -> None:
        """Wait until it is time to look again."""
        if self._first:
            await asyncio.sleep(HURRY_S)
            return
        self._hurry.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self._interval_s)

    def _ends(self, replica_id: ReplicaId) -> bool:
        snapshot = self.view.snapshot(replica_id)
        return snapshot is not None and snapshot.draining

    def _reconcile(self, found: list[ReplicaSnapshot]) -> None:
        for snapshot in found:
            link = self._links.get(snapshot.replica_id)
            if link is None or not link.open:
                self._open(snapshot)
            else:
                self._on_snapshot(snapshot)

    def _open(self, snapshot: ReplicaSnapshot) -> None:
        link = ReplicaLink(
            snapshot.replica_id,
            snapshot.address,
            self._signing_key,
            on_snapshot=self._on_snapshot,
            on_host=self._on_host,
            on_load=self._on_load,
            on_lost=self._on_lost,
        )
        self._links[snapshot.replica_id] = link
        link.start()
        log.info("replicas.linked", replica=snapshot.replica_id, address=snapshot.address)
        self._on_snapshot(snapshot)

    def _on_snapshot(self, snapshot: ReplicaSnapshot) -> None:
        if snapshot.replica_id in self._links:
            self.view.update(snapshot, self._clock.monotonic())
            self._room.note_change(snapshot.replica_id)
            self._first.wake()

    def _on_host(self, replica_id: ReplicaId, adapters: tuple[ResidentAdapter, ...]) -> None:
        if replica_id in self._links:
            self._host_tiers[replica_id] = adapters
            there = (a.digest for a in adapters if a.state is AdapterState.ON_HOST)
            self.view.set_on_host(replica_id, there)

    def _on_load(self, replica_id: ReplicaId, running: int, queued: int) -> None:
        self.view.hear_load(replica_id, running, queued, self._clock.monotonic())
        self._room.note_change(replica_id)

    def _on_lost(self, replica_id: ReplicaId) -> None:
        self._links.pop(replica_id, None)
        self._host_tiers.pop(replica_id, None)
        self.view.remove(replica_id)
        self._room.note_change(replica_id)
        self.on_lost(replica_id)

    def _any_room(self, tenant: TenantId | None) -> bool:
        return any(self._picker.has_room(replica, tenant) for replica in self.view.replicas())

    def _has_room(self, replica_id: ReplicaId) -> bool:
        replica = self.view.get(replica_id)
        return replica is not None and self._picker.has_room(replica)


def _with_host(snapshot: ReplicaSnapshot, on_host: tuple[ResidentAdapter, ...]) -> ReplicaSnapshot:
    in_slots = {resident.digest for resident in snapshot.resident}
    rest = tuple(resident for resident in on_host if resident.digest not in in_slots)
    return dataclasses.replace(snapshot, resident=(*snapshot.resident, *rest))
