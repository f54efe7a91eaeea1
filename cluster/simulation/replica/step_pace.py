"""Says how much slower than by the cost model a replica's steps are, and why.

A replica may be slow by itself. Replicas that share cores besides slow each other while they
compute at the same moment.
"""

from collections.abc import Callable

from cluster.simulation.virtual.virtual_process import VirtualProcess


class SharedCores:
    """The cores that all replicas of a simulation compute on.

    Args:
        crowding: share by which a step takes longer for each other replica that computes; 0 gives
            each replica cores of its own.
    """

    def __init__(self, crowding: float = 0.0) -> None:
        self.crowding = crowding
        self.computing: dict[StepPace, None] = {}

    def join(self, pace: "StepPace") -> None:
        """Note that a replica computes, and tell the others where that is news."""
        if pace not in self.computing:
            self._tell()
            self.computing[pace] = None

    def leave(self, pace: "StepPace") -> None:
        """Note that a replica computes no longer, and tell the others."""
        if pace in self.computing:
            del self.computing[pace]
            self._tell()

    def _tell(self) -> None:
        for pace in self.computing:
            pace.on_change()


class StepPace:
    """Tells one replica's engine how much longer its steps take.

    Args:
        slowness: of the replica when it has its cores to itself.
        cores: shared with other replicas.
        process: of the replica.
    """

    def __init__(self, slowness: float, cores: SharedCores, process: VirtualProcess) -> None:
        self._slowness = slowness
        self._cores = cores
        self._process = process
        self.on_change: Callable[[], None] = _ignore
        """Called when another replica begins or ends to compute, while this one does."""

    def begin(self) -> float:
        """Begin a step; returns the factor for its seconds, by who computes now."""
        cores, slowness = self._cores, self._slowness
        if not cores.crowding:
            return slowness
        cores.join(self)
        others = sum(pace.responds for pace in cores.computing if pace is not self)
        return slowness * (1.0 + cores.crowding * others)

    def rest(self) -> None:
        """Note that the engine has nothing to compute."""
        self._cores.leave(self)

    @property
    def responds(self) -> bool:
        """Report whether the replica is alive and does not stand still."""
        return self._process.responds


def _ignore() -> None:
    """Do nothing: an engine that takes one step at a time asks before each."""
