"""Says how much slower than by the cost model a replica's steps are, and why.

A replica may be slow by itself, for good or for some seconds. Replicas that share cores besides
slow each other while they compute at the same moment.
"""

import math
import random
from collections.abc import Callable

from cluster.simulation.virtual.virtual_process import VirtualProcess

DRIFT_S = 10.0
"""For so long a replica keeps its pace."""


class SharedCores:
    """The cores that all replicas of a simulation compute on.

    Args:
        crowding: share by which a step takes longer for each other replica that computes; 0 gives
            each replica cores of its own.
        drift: standard deviation of the logarithm of a replica's pace, which changes every
            ``DRIFT_S`` and is 1 on average; 0 keeps it.
        seed: of the paces.
    """

    def __init__(self, crowding: float = 0.0, drift: float = 0.0, seed: int = 0) -> None:
        self.crowding = crowding
        self.drift = drift
        self.seed = seed
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
        self._span = -1
        self._factor = 1.0
        self.on_change: Callable[[], None] = _ignore
        """Called when another replica begins or ends to compute, while this one does."""

    @property
    def lasts_s(self) -> float:
        """Return for how long the factor stays as it is while the same replicas compute."""
        if not self._cores.drift:
            return math.inf
        now = self._process.loop.time()
        return (int(now / DRIFT_S) + 1) * DRIFT_S - now

    def begin(self) -> float:
        """Begin a step; returns the factor for its seconds, by who computes now."""
        cores, slowness = self._cores, self._slowness
        if cores.drift:
            slowness *= self._drifted()
        if not cores.crowding:
            return slowness
        cores.join(self)
        others = sum(pace.responds for pace in cores.computing if pace is not self)
        return slowness * (1.0 + cores.crowding * others)

    def _drifted(self) -> float:
        cores, span = self._cores, int(self._process.loop.time() / DRIFT_S)
        if span != self._span:
            draw = random.Random(f"{cores.seed} {self._process.name} {span}")
            self._span = span
            self._factor = draw.lognormvariate(-(cores.drift**2) / 2, cores.drift)
        return self._factor

    def rest(self) -> None:
        """Note that the engine has nothing to compute."""
        self._cores.leave(self)

    @property
    def responds(self) -> bool:
        """Report whether the replica is alive and does not stand still."""
        return self._process.responds


def _ignore() -> None:
    """Look at each step anew, as an engine that takes one step at a time does."""
