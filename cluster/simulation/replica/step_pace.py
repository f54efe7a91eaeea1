"""Says how much slower than by the cost model a replica's steps are, and why.

A replica may be slow by itself. Replicas that share cores besides slow each other while they
compute at the same moment.
"""

from cluster.simulation.virtual.virtual_process import VirtualProcess


class SharedCores:
    """The cores that all replicas of a simulation compute on.

    Args:
        crowding: share by which a step takes longer for each other replica that computes; 0 gives
            each replica cores of its own.
    """

    def __init__(self, crowding: float = 0.0) -> None:
        self.crowding = crowding
        self.computing: set[VirtualProcess] = set()


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

    def begin(self) -> float:
        """Begin a step; returns the factor for its seconds, by who computes now."""
        cores, slowness = self._cores, self._slowness
        if not cores.crowding:
            return slowness
        cores.computing.add(self._process)
        others = sum(one.responds for one in cores.computing if one is not self._process)
        return slowness * (1.0 + cores.crowding * others)

    def rest(self) -> None:
        """Note that the engine has nothing to compute."""
        self._cores.computing.discard(self._process)
