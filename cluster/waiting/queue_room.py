"""Lets requests wait until a replica's queue has room, and wakes as many as it has room for."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from cluster.clock import Clock
from cluster.domain.ids import ReplicaId, TenantId
from cluster.errors import Overloaded, ReplicaLost
from cluster.tenancy.shares import DEFAULT_WEIGHT
from cluster.tenancy.waiting_places import WaitingPlace
from cluster.waiting.timed_line import TimedLine

T = TypeVar("T")


class QueueRoom:
    """Keeps requests that no replica takes now; one owner, on one event loop.

    One of them is awake at a time, and the next one wakes once its pick counts. So those that wait
    cost nothing while no queue has room, however often replicas report. Where a full queue takes a
    tenant that has nothing there, the tenant's first request need not wait.

    A request may be refused although there is room: by replicas that just failed it, or for a
    context that is too short. From then on it waits apart and delays no other. With each
    change those who wait apart are tried first, until one of them is refused again.

    Args:
        has_room: returns whether a replica takes another request.
        any_room: returns whether any replica does; for a tenant, replicas count too whose queue is
            full and takes it all the same.
        is_ready: returns whether a replica can be reached at all.
        clock: of the waits' ends.
        interval_s: seconds between two looks at the time.
    """

    def __init__(
        self,
        *,
        has_room: Callable[[ReplicaId], bool],
        any_room: Callable[[TenantId | None], bool],
        is_ready: Callable[[], bool],
        clock: Clock,
        interval_s: float,
    ) -> None:
        self._has_room = has_room
        self._any_room = any_room
        self._is_ready = is_ready
        self._clock = clock
        self._line = TimedLine(clock, interval_s, on_unused=self._wake_next)
        self._apart = TimedLine(clock, interval_s, on_unused=self._wake_next)
        self._open: dict[ReplicaId, None] = {}  # replicas that gained room, until it is used
        self._apart_refused = False  # one of them was, since the last change
        self._is_awake = False

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._line) + len(self._apart)

    @property
    def is_awaited(self) -> bool:
        """Return whether others come before a new request."""
        return self._is_awake or len(self._line) > 0

    async def pick(
        self,
        tenant: TenantId | None,
        pick: Callable[[], T],
        *,
        wait_s: float,
        place: WaitingPlace | None = None,
    ) -> T:
        """Return the answer of ``pick``, at once or when a replica has room.

        Args:
            tenant: whose turn it is to be, if it waits.
            pick: its choice must count as sent before the event loop runs again.
            wait_s: seconds that it may wait.
            place: taken if it has to wait.

        Raises:
            ReplicaLost: no replica fitted for ``wait_s`` seconds, or none can be reached.
            Overloaded: the queues of all replicas stayed full for as long, or too many sequences
                of the tenant wait already.
        """
        refused = wait_s <= 0 or not self.is_awaited or self._takes_no_room(tenant)
        if refused:
            try:
                return pick()
            except (Overloaded, ReplicaLost):
                if wait_s <= 0 or not self._is_ready():
                    raise
        if place is not None:
            place.take()
        weight = DEFAULT_WEIGHT if place is None else place.weight
        return await self._take_turn(
            tenant, weight, self._clock.monotonic() + wait_s, pick, refused=refused
        )

    async def _take_turn(
        self,
        tenant: TenantId | None,
        weight: float,
        ends: float,
        pick: Callable[[], T],
        *,
        refused: bool,
    ) -> T:
        """Return the answer of ``pick``, which is called when it is the tenant's turn.

        Args:
            ends: end of the wait, monotonic seconds; ``pick`` is called once more then.
            refused: it has been called before, in vain.
        """
        line, again = self._apart if refused and self._any_room(None) else self._line, False
        while True:
            woken = await line.wait(tenant, ends, weight=weight, again=again)
            try:
                return pick()
            except (Overloaded, ReplicaLost):
                if not woken or not self._is_ready():
                    raise
                again = not self._any_room(None)
                self._apart_refused |= not again
                line = self._line if again else self._apart
            finally:
                if woken:  # what it picked counts by then
                    asyncio.get_running_loop().call_soon(self._wake_next)

    def note_change(self, replica_id: ReplicaId) -> None:
        """Wake as many as have room now; call it when a replica's queue or state has changed.

        If no replica can be reached any more, all end their wait.
        """
        if not len(self):
            return
        if not self._is_ready():
            self._apart.release_all()
            self._line.release_all()
        elif self._has_room(replica_id):
            self._open[replica_id] = None
            if not self._is_awake:
                self._apart_refused = False
                self._wake_next()

    def close(self) -> None:
        """Look at the time no more."""
        self._apart.close()
        self._line.close()

    def _takes_no_room(self, tenant: TenantId | None) -> bool:
        """Return whether a full queue takes a new request of a tenant before all who wait."""
        if tenant is None or self._line.has_waiters(tenant) or self._any_room(None):
            return False
        return self._any_room(tenant)

    def _wake_next(self) -> None:
        self._is_awake = False
        while self._open:
            replica_id = next(iter(self._open))
            if not self._has_room(replica_id):
                del self._open[replica_id]
                continue
            lines = (self._line,) if self._apart_refused else (self._apart, self._line)
            self._is_awake = any(line.release_first() for line in lines)
            if self._is_awake:
                return
            self._open.clear()
