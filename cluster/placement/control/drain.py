"""Makes before it breaks: a replica is emptied before the count falls.

Serve chooses the replicas that end. Nobody can tell it which, so its choice is predicted by its own
order, and those replicas hand over what only they hold. Where the prediction was wrong, the replica
that left is named, to be handled as a death.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from cluster.domain.ids import ReplicaId


@dataclass(frozen=True, slots=True)
class ServeReplica:
    """One replica as Serve sees it."""

    replica_id: ReplicaId
    node: str  # Ray's id of its node; "" while it has none
    running: bool = True  # no: it starts, or Serve has yet to find it again after a restart


@dataclass(frozen=True, slots=True)
class ServeReplicas:
    """Everything that Serve's choice depends on."""

    replicas: tuple[ServeReplica, ...] = ()  # in the order in which they began to run
    head: str = ""  # Ray's id of the head node, which cannot be given back
    others: Mapping[str, int] = field(default_factory=dict)
    """Running actors of other deployments, by node."""


def leaving_order(serve: ServeReplicas) -> tuple[ReplicaId, ...]:
    """Return the replicas in the order in which Serve ends them.

    Those that do not run go first, then workers before the head, emptier nodes first, the newest
    first. Nodes with equally many go by their oldest replica.
    """
    running = [replica for replica in serve.replicas if replica.running]
    on_node = Counter(replica.node for replica in running)
    oldest = {node: index for index, node in reversed(list(enumerate(r.node for r in running)))}

    def place(item: tuple[int, ServeReplica]) -> tuple[bool, int, int, int]:
        index, replica = item
        node = replica.node
        full = on_node[node] + serve.others.get(node, 0)
        return node == serve.head, full, oldest[node], -index

    unsettled = [replica.replica_id for replica in serve.replicas if not replica.running]
    settled = [replica.replica_id for _, replica in sorted(enumerate(running), key=place)]
    return (*unsettled, *settled)


def next_to_leave(serve: ServeReplicas) -> ReplicaId | None:
    """Return the replica that Serve ends first when the count falls, or None if there is none."""
    return next(iter(leaving_order(serve)), None)


@dataclass(frozen=True, slots=True)
class DrainStep:
    """What to do after a look."""

    count: int  # to hand to Serve
    draining: frozenset[ReplicaId] = frozenset()  # about to leave
    surprises: tuple[ReplicaId, ...] = ()  # left without having been marked: handle as deaths


@dataclass(frozen=True, slots=True)
class _Fall:
    """A fall of the count that Serve has yet to carry out."""

    count: int
    before: frozenset[ReplicaId]
    marked: frozenset[ReplicaId]

    @property
    def leaving(self) -> int:
        """Return how many replicas Serve is going to end."""
        return len(self.before) - self.count


class Drain:
    """Holds a fall of the count back until those that will leave are empty; one owner.

    All times are monotonic seconds of one process.
    """

    def __init__(self) -> None:
        self._marks: dict[ReplicaId, float] = {}  # and since when
        self._fall: _Fall | None = None

    def look(
        self,
        wanted: int,
        target: int,
        serve: ServeReplicas,
        *,
        sole: Collection[ReplicaId],
        drain_s: float,
        now: float,
    ) -> DrainStep:
        """Decide how far the count may fall.

        Args:
            wanted: replicas to have.
            target: replicas that Serve is to run now.
            serve: all replicas that exist.
            sole: those that alone serve something with demand.
            drain_s: a replica that still does after so long may go all the same.
            now: never decreases from call to call.
        """
        surprises = tuple(self._finish_fall(wanted, target, serve))
        if self._fall is not None:
            return DrainStep(self._fall.count, self._fall.marked)
        if wanted >= target:
            self._marks.clear()
            return DrainStep(wanted, surprises=surprises)
        order = leaving_order(serve)
        leavers = order[: max(0, len(order) - wanted)]
        self._marks = {leaver: self._marks.get(leaver, now) for leaver in leavers}
        marked = frozenset(self._marks)
        waits = any(
            leaver in sole and now - since < drain_s for leaver, since in self._marks.items()
        )
        if waits:
            return DrainStep(target, marked, surprises)
        self._fall = _Fall(wanted, frozenset(order), marked)
        return DrainStep(wanted, marked, surprises)

    def _finish_fall(self, wanted: int, target: int, serve: ServeReplicas) -> Iterator[ReplicaId]:
        """End a fall that Serve has carried out, or that is not wanted any more.

        Yields the replicas that left although nobody predicted it.
        """
        fall = self._fall
        if fall is None:
            return
        there = {replica.replica_id for replica in serve.replicas}
        gone = fall.before - there
        if fall.count != target or wanted > fall.count or len(gone) >= fall.leaving:
            self._fall = None
            self._marks.clear()
            yield from sorted(gone - fall.marked)
