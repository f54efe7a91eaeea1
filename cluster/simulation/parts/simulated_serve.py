"""Ray Serve as the cluster meets it: replicas that start late, leave in order, and are replaced.

It is the one part that exists as a model only. Who leaves is predicted by the controller's own
knowledge of Serve's order. A leaving replica finishes its requests, for a while.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cluster.domain.ids import ReplicaId
from cluster.placement.control.drain import ServeReplica, ServeReplicas, leaving_order
from cluster.simulation.replica.simulated_replica import SimulatedReplica
from cluster.simulation.result import TierCounts
from cluster.simulation.spec import Delays
from cluster.simulation.virtual.virtual_loop import VirtualLoop

_NODE = "node"


@dataclass(slots=True, eq=False)
class _Managed:
    replica_id: ReplicaId
    asked_at: float
    replica: SimulatedReplica | None = None  # None while it starts
    leaving: bool = False
    gone: bool = False


class SimulatedServe:
    """Keeps as many replicas as its target says.

    Args:
        make: makes a replica, given its id.
        start_s: from asking for a replica to its first breath.
        on_lost: hears of each replica whose process has ended.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        make: Callable[[ReplicaId], SimulatedReplica],
        start_s: float,
        delays: Delays,
        on_lost: Callable[[SimulatedReplica], None],
    ) -> None:
        self._loop = loop
        self._make = make
        self._start_s = start_s
        self._delays = delays
        self._on_lost = on_lost
        self._managed: list[_Managed] = []
        self._asked = 0
        self._past_seconds = 0.0
        self._past_tiers = TierCounts()
        self.target = 0

    def begin(self, replicas: int) -> None:
        """Have so many replicas run at once, as if they had always been there."""
        self.target = replicas
        for _ in range(replicas):
            self._start(self._ask())

    @property
    def replicas(self) -> list[SimulatedReplica]:
        """Return the replicas that run or leave, by start."""
        return [m.replica for m in self._managed if m.replica is not None]

    @property
    def running(self) -> int:
        """Return the replicas that run and do not leave."""
        return sum(m.replica is not None and not m.leaving for m in self._managed)

    @property
    def starting(self) -> int:
        """Return the replicas that were asked for and have not begun."""
        return sum(m.replica is None for m in self._managed)

    @property
    def starting_for_s(self) -> float | None:
        """Return the age of the oldest start under way, or None."""
        asked = [m.asked_at for m in self._managed if m.replica is None]
        return self._loop.now - min(asked) if asked else None

    def listed(self) -> ServeReplicas:
        """Return Serve's list of those that run or start and do not leave; all on one node."""
        return ServeReplicas(
            tuple(
                ServeReplica(m.replica_id, _NODE, running=m.replica is not None)
                for m in self._managed
                if not m.leaving
            )
        )

    @property
    def replica_seconds(self) -> float:
        """Return the time for which replicas were there or asked for, added up."""
        now = self._loop.now
        return self._past_seconds + sum(now - m.asked_at for m in self._managed)

    def tier_counts(self) -> TierCounts:
        """Return the sums over all replicas there ever were."""
        return sum((r.tier_counts() for r in self.replicas), self._past_tiers)

    def set_target(self, target: int) -> None:
        """Have so many replicas from now on."""
        self.target = target
        self._reconcile()

    def by_number(self, number: int) -> SimulatedReplica | None:
        """Return the replica that was asked for after so many others, if it runs."""
        wanted = ReplicaId(f"r{number}")
        return next((r for r in self.replicas if r.replica_id == wanted), None)

    def kill(self, replica: SimulatedReplica) -> None:
        """End a replica's process."""
        managed = self._of(replica)
        if managed is None or not replica.process.alive:
            return
        replica.die()
        self._on_lost(replica)
        self._loop.at(self._loop.now + self._delays.notice_s, self._notice, managed)

    def hang(self, replica: SimulatedReplica, for_s: float) -> None:
        """Let a replica stand still; the health check ends it if that lasts."""
        now = self._loop.now
        replica.process.hang()
        if for_s < self._delays.health_s:
            self._loop.at(now + for_s, replica.process.resume)
        else:
            self._loop.at(now + self._delays.health_s, self.kill, replica)

    def _reconcile(self) -> None:
        staying = [m for m in self._managed if not m.leaving]
        now = self._loop.now
        for _ in range(self.target - len(staying)):
            self._loop.at(now + self._start_s, self._start, self._ask())
        excess = len(staying) - self.target
        if excess > 0:
            by_id = {managed.replica_id: managed for managed in staying}
            for replica_id in leaving_order(self.listed())[:excess]:
                self._leave(by_id[replica_id])

    def _ask(self) -> _Managed:
        managed = _Managed(ReplicaId(f"r{self._asked}"), self._loop.now)
        self._asked += 1
        self._managed.append(managed)
        return managed

    def _start(self, managed: _Managed) -> None:
        if managed.gone:
            return
        managed.replica = self._make(managed.replica_id)

    def _leave(self, managed: _Managed) -> None:
        managed.leaving = True
        if managed.replica is None:
            self._remove(managed)
            return
        if managed.replica.process.responds:
            managed.replica.drain()
        self._await_idle(managed, self._loop.now + self._delays.drain_s)

    def _await_idle(self, managed: _Managed, until: float) -> None:
        replica = managed.replica
        if managed.gone or replica is None:
            return
        now = self._loop.now
        if now < until and not replica.idle:
            self._loop.at(now + self._delays.publish_s, self._await_idle, managed, until)
            return
        if replica.process.alive:
            replica.die()
            self._on_lost(replica)
        self._remove(managed)

    def _notice(self, managed: _Managed) -> None:
        if not managed.gone:
            self._remove(managed)
            self._reconcile()

    def _remove(self, managed: _Managed) -> None:
        managed.gone = True
        self._managed.remove(managed)
        self._past_seconds += self._loop.now - managed.asked_at
        if managed.replica is not None:
            self._past_tiers += managed.replica.tier_counts()

    def _of(self, replica: SimulatedReplica) -> _Managed | None:
        return next((m for m in self._managed if m.replica is replica), None)
