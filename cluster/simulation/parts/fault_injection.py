"""Makes the faults of a specification happen."""

from collections.abc import Sequence
from typing import Protocol

from cluster.placement.policy import ClusterPolicy
from cluster.simulation.parts.controller import SimulatedController
from cluster.simulation.parts.controller_book import ControllerBook
from cluster.simulation.parts.front import SimulatedFront
from cluster.simulation.parts.simulated_serve import SimulatedServe
from cluster.simulation.spec import (
    ControllerDies,
    Fault,
    FrontDies,
    PolicyChanges,
    ReplicaDies,
    ReplicaHangs,
    StoreLeaves,
    WallClockSteps,
)
from cluster.simulation.virtual.virtual_loop import VirtualLoop
from cluster.simulation.virtual.virtual_process import VirtualProcess


class FaultyCluster(Protocol):
    """The parts that faults strike."""

    loop: VirtualLoop
    policy: ClusterPolicy
    serve: SimulatedServe
    book: ControllerBook
    fronts: list[SimulatedFront | None]
    controller: SimulatedController | None

    def start_front(self, place: int) -> None:
        """Start the front of one place."""
        ...

    def end_front(self, place: int) -> None:
        """End the front of one place."""
        ...

    def start_controller(self, *, restore: bool) -> None:
        """Start a controller."""
        ...


class FaultInjector:
    """Strikes a cluster at the times that faults name; one without its target does nothing."""

    def __init__(self, cluster: FaultyCluster) -> None:
        self._cluster = cluster

    def schedule(self, faults: Sequence[Fault]) -> None:
        """Let each fault happen at its time."""
        for fault in faults:
            self._cluster.loop.at(fault.at, self._strike, fault)

    def _strike(self, fault: Fault) -> None:
        cluster = self._cluster
        loop = cluster.loop
        match fault:
            case ReplicaDies(_, number):
                replica = cluster.serve.by_number(number)
                if replica is not None:
                    cluster.serve.kill(replica)
            case ReplicaHangs(_, number, for_s):
                replica = cluster.serve.by_number(number)
                if replica is not None and replica.process.responds:
                    cluster.serve.hang(replica, for_s)
            case FrontDies(at, place, down_s):
                if place < len(cluster.fronts) and cluster.fronts[place] is not None:
                    cluster.end_front(place)
                    loop.at(at + down_s, cluster.start_front, place)
            case ControllerDies(at, down_s, keeps_state):
                if cluster.controller is not None:
                    cluster.controller.process.kill()
                    cluster.controller = None
                    loop.at(at + down_s, self._restart_controller, keeps_state)
            case StoreLeaves(at, for_s):
                cluster.book.reachable = False
                loop.at(at + for_s, self._bring_store_back)
            case PolicyChanges(_, policy):
                cluster.policy = policy
            case WallClockSteps(_, name, seconds):
                process = self._process(name)
                if process is not None:
                    process.clock.skew += seconds

    def _restart_controller(self, keeps_state: bool) -> None:
        self._cluster.start_controller(restore=keeps_state)

    def _bring_store_back(self) -> None:
        self._cluster.book.reachable = True

    def _process(self, name: str) -> VirtualProcess | None:
        cluster = self._cluster
        processes = [front.process for front in cluster.fronts if front is not None]
        processes += [replica.process for replica in cluster.serve.replicas]
        if cluster.controller is not None:
            processes.append(cluster.controller.process)
        return next((process for process in processes if process.name == name), None)
