"""Lets requests of a simulated front wait for a replica, with the parts of the cluster's fronts."""

from collections.abc import Callable
from functools import partial

from cluster.domain.ids import ReplicaId, TenantId
from cluster.errors import Overloaded, ReplicaLost
from cluster.placement.exchange import FrontOrders
from cluster.placement.picking.cluster_view import ClusterView
from cluster.placement.picking.filters import PickRequest
from cluster.placement.policy import PickingPolicy
from cluster.simulation.parts.front_rules import FrontPicks
from cluster.simulation.virtual.virtual_process import VirtualProcess
from cluster.tenancy.waiting_places import WaitingPlace, WaitingPlaces
from cluster.waiting.first_replica import FirstReplica
from cluster.waiting.holding import Holding
from cluster.waiting.patience import HURRY_S, REPLICA_WAIT_S
from cluster.waiting.queue_room import QueueRoom


class FrontWaiting:
    """Picks for requests, which wait while no replica takes them.

    Args:
        orders: the controller's latest.
        report: reports to the controller at once.
        look_again: looks for replicas at once.
    """

    def __init__(
        self,
        process: VirtualProcess,
        view: ClusterView,
        picks: FrontPicks,
        orders: Callable[[], FrontOrders],
        report: Callable[[], None],
        look_again: Callable[[], None],
    ) -> None:
        self._clock = process.clock
        self._view = view
        self._picks = picks
        self._look_again = look_again
        self._first = FirstReplica(lambda: self.ready, process.clock, HURRY_S)
        self._room = QueueRoom(
            has_room=self._has_room,
            any_room=lambda tenant: any(picks.has_room(r, tenant) for r in view.replicas()),
            is_ready=lambda: self.ready,
            clock=process.clock,
            interval_s=HURRY_S,
        )
        self._holding = Holding(self, orders, report)
        self._picking = 0  # calls of ``pick`` under way
        self.places = WaitingPlaces(PickingPolicy().max_queued)
        """Bound the requests that wait."""

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._first) + len(self._room) if self._picking else 0

    @property
    def ready(self) -> bool:
        """Report whether a replica can be reached that is not about to end."""
        return self._view.has_staying

    @property
    def hurries(self) -> bool:
        """Report whether requests wait for the first replica."""
        return self._picking > 0 and len(self._first) > 0

    async def wait_ready(self, timeout_s: float, tenant: TenantId | None = None) -> bool:
        """Wait until a replica can be reached, and look for one; return whether one can."""
        self._look_again()
        return await self._first.wait(timeout_s, tenant)

    def count_wishes(self) -> int:
        """Return the requests that want a first replica, once for each report."""
        return self._holding.count_wishes()

    def pick_at_once(self, wanted: PickRequest) -> ReplicaId | None:
        """Return what ``pick`` would, or None if the request has to wait."""
        if not self.ready or self._room.is_awaited:
            return None
        try:
            return self._pick_now(wanted)
        except (Overloaded, ReplicaLost):
            return None

    async def pick(
        self,
        request: Callable[[], PickRequest],
        tenant: TenantId,
        place: WaitingPlace,
        patience_s: Callable[[], float],
    ) -> tuple[ReplicaId, PickRequest]:
        """Return the replica for a request; it must count as sent before anything else happens.

        Args:
            request: describes it; asked again after each wait.
            patience_s: seconds that it can wait.

        Raises:
            Starting: no replica could be reached in time.
            ReplicaLost: none that could be was fit to be picked.
            Overloaded: all replicas stayed full, or too many requests of the tenant wait already.
        """
        self._picking += 1
        try:
            while True:
                await self._holding.wait_for_replica(place, patience_s())
                wanted = request()
                try:
                    pick = partial(self._pick_now, wanted)
                    wait_s = min(REPLICA_WAIT_S, patience_s())
                    chosen = await self._room.pick(tenant, pick, wait_s=wait_s, place=place)
                except ReplicaLost:
                    if self.ready:
                        raise
                    continue  # the last one has gone meanwhile
                return chosen, wanted
        finally:
            self._picking -= 1

    def note_change(self, replica_id: ReplicaId) -> None:
        """Let those who wait know that a replica has changed."""
        if self._picking:
            self._room.note_change(replica_id)
            self._first.wake()

    def close(self) -> None:
        """Look at the time no more."""
        self._first.close()
        self._room.close()

    def _pick_now(self, wanted: PickRequest) -> ReplicaId:
        chosen = self._picks.pick(self._view, wanted, self._clock.monotonic())
        if chosen is None:
            raise ReplicaLost("no replica is to take it")
        return chosen

    def _has_room(self, replica_id: ReplicaId) -> bool:
        replica = self._view.get(replica_id)
        return replica is not None and self._picks.has_room(replica)
