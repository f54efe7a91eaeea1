"""Ray Serve as the cluster meets it: replicas that start late, leave in its order, and are replaced.

It is the one part that exists as a model only. Who leaves: replicas that are still starting first,
then those that run, in both the newest first. A leaving one finishes its requests, for a while.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cluster.domain.ids import ReplicaId
from cluster.simulation.replica import SimulatedReplica
from cluster.simulation.result import TierCounts
from cluster.simulation.spec import Delays
from cluster.simulation.virtual_loop import VirtualLoop


@dataclass(slots=True, eq=False)
class _Managed:
    asked_at: float
    replica: SimulatedReplica | None = None  # None while it starts
    leaving: bool = False
    gone: bool = False


class SimulatedServe:
    """Keeps as many replicas as its target says.

    Args:
        make: makes a replica, given its number in order of start.
        start_s: from asking for a replica to its first breath.
        on_lost: hears of each replica whose process has ended.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        make: Callable[[int], SimulatedReplica],
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
        self._made = 0
        self._past_seconds = 0.0
        self._past_tiers = TierCounts()
        self.target = 0

    def begin(self, replicas: int) -> None:
        """Have so many replicas run at once, as if they had always been there."""
        self.target = replicas
        for _ in range(replicas):
            managed = _Managed(self._loop.time())
            self._managed.append(managed)
            self._start(managed)

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
        return self._loop.time() - min(asked) if asked else None

    @property
    def replica_seconds(self) -> float:
        """Return the time for which replicas were there or asked for, added up."""
        now = self._loop.time()
        return self._past_seconds + sum(now - m.asked_at for m in self._managed)

    def tier_counts(self) -> TierCounts:
        """Return the sums over all replicas there ever were."""
        return sum((r.tier_counts() for r in self.replicas), self._past_tiers)

    def set_target(self, target: int) -> None:
        """Have so many replicas from now on."""
        self.target = target
        self._reconcile()

    def by_number(self, number: int) -> SimulatedReplica | None:
        """Return the replica that was the so-manieth to start, if it is there."""
        wanted = ReplicaId(f"r{number}")
        return next((r for r in self.replicas if r.replica_id == wanted), None)

    def kill(self, replica: SimulatedReplica) -> None:
        """End a replica's process."""
        managed = self._of(replica)
        if managed is None or not replica.process.alive:
            return
        replica.die()
        self._on_lost(replica)
        self._loop.at(self._loop.time() + self._delays.notice_s, self._notice, managed)

    def hang(self, replica: SimulatedReplica, for_s: float) -> None:
        """Let a replica stand still; the health check ends it if that lasts."""
        now = self._loop.time()
        replica.process.hang()
        if for_s < self._delays.health_s:
            self._loop.at(now + for_s, replica.process.resume)
        else:
            self._loop.at(now + self._delays.health_s, self.kill, replica)

    def _reconcile(self) -> None:
        staying = [m for m in self._managed if not m.leaving]
        now = self._loop.time()
        for _ in range(self.target - len(staying)):
            managed = _Managed(now)
            self._managed.append(managed)
            self._loop.at(now + self._start_s, self._start, managed)
        excess = len(staying) - self.target
        if excess > 0:
            order = sorted(staying, key=lambda m: m.replica is None)  # stable: the newest last
            for managed in order[-excess:]:
                self._leave(managed)

    def _start(self, managed: _Managed) -> None:
        if managed.gone:
            return
        managed.replica = self._make(self._made)
        self._made += 1

    def _leave(self, managed: _Managed) -> None:
        managed.leaving = True
        if managed.replica is None:
            self._remove(managed)
            return
        if managed.replica.process.responds:
            managed.replica.drain()
        self._await_idle(managed, self._loop.time() + self._delays.drain_s)

    def _await_idle(self, managed: _Managed, until: float) -> None:
        replica = managed.replica
        if managed.gone or replica is None:
            return
        now = self._loop.time()
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
        self._past_seconds += self._loop.time() - managed.asked_at
        if managed.replica is not None:
            self._past_tiers += managed.replica.tier_counts()

    def _of(self, replica: SimulatedReplica) -> _Managed | None:
        return next((m for m in self._managed if m.replica is replica), None)
