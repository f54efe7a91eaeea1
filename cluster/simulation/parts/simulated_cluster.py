"""The parts of a simulated cluster, put together, and the trace that comes in."""

import itertools
import math
import random
from collections.abc import Callable

from cluster.config import FrontConfig
from cluster.domain.ids import ReplicaId
from cluster.placement.demand.demand import DemandKey
from cluster.placement.exchange import FrontId, FrontOrders, FrontReport
from cluster.simulation.parts.controller import SimulatedController
from cluster.simulation.parts.controller_book import ControllerBook
from cluster.simulation.parts.fault_injection import FaultInjector
from cluster.simulation.parts.front import SimulatedFront
from cluster.simulation.parts.front_rules import FrontPicks
from cluster.simulation.parts.scaling import RuledScale
from cluster.simulation.parts.simulated_serve import SimulatedServe
from cluster.simulation.parts.simulation_records import Records
from cluster.simulation.parts.tracked import Tracked
from cluster.simulation.replica.requests import WorkMaker
from cluster.simulation.replica.simulated_adapters import SimulatedCatalog
from cluster.simulation.replica.simulated_replica import SimulatedReplica
from cluster.simulation.replica.step_pace import SharedCores, StepPace
from cluster.simulation.result import FRONT_LOST, SimulationResult
from cluster.simulation.spec import ControllerDies, SimulationSpec
from cluster.simulation.trace import TraceRequest
from cluster.simulation.virtual.virtual_loop import VirtualLoop
from cluster.simulation.virtual.virtual_process import VirtualProcess

REQUEST_TIMEOUT_S = FrontConfig().request_timeout_s
"""Time of a request whose trace names no deadline, as a front gives it."""

_PROGRESS_EVERY = 256  # requests


class SimulatedCluster:
    """One run of one specification."""

    def __init__(self, spec: SimulationSpec, progress: Callable[[float], None] | None) -> None:
        _check(spec)
        self.loop = VirtualLoop()  # type: ignore[abstract] # of no use here: sockets, signals
        self.policy = spec.policy
        self.catalog = SimulatedCatalog(spec.catalog, spec.ranks)
        self.book = ControllerBook(keeps=any(isinstance(f, ControllerDies) for f in spec.faults))
        self.serve = SimulatedServe(
            self.loop, self._make_replica, spec.model.start_s, spec.delays, self._lose_replica
        )
        self.fronts: list[SimulatedFront | None] = []
        self.controller: SimulatedController | None = None
        self._spec = spec
        self._progress = progress
        block_size = spec.shape.engine.block_size
        self._works = WorkMaker(block_size, with_tokens=spec.engine == "exact")
        self._cores = SharedCores(spec.crowding)
        self._records = Records(self.loop.time, self._counts, self.catalog.nbytes)
        self._keys: dict[DemandKey, DemandKey] = {}  # one object for each
        self._requests = [self._track(index, asked) for index, asked in enumerate(spec.trace)]
        self._arrived = 0
        self._ended = 0
        self._fronts_made = 0
        self._front_processes: dict[FrontId, VirtualProcess] = {}
        self._seeds = random.Random(spec.seed)
        self._scale: RuledScale | None = None
        if spec.scaler is not None:
            self._scale = RuledScale(
                spec.scaler,
                self.serve,
                self.catalog,
                spec.model,
                spec.shape,
                lambda: self._arrived - self._ended,
            )

    def run(self) -> None:
        """Serve the whole trace, or as much of it as there is time for."""
        spec = self._spec
        self.serve.begin(spec.replicas)
        self.start_controller(restore=False)
        for _ in range(spec.fronts):
            self.fronts.append(None)
            self.start_front(len(self.fronts) - 1)
        FaultInjector(self).schedule(spec.faults)
        self._await_arrival()
        if self._requests or spec.until is not None:
            self.loop.run(spec.until)

    def result(self) -> SimulationResult:
        """Return what has happened so far."""
        replicas = {r.replica_id: r for r in self.serve.replicas}
        for tracked in self._requests[: self._arrived]:
            replica = replicas.get(tracked.replica) if tracked.replica is not None else None
            if tracked.ended_at is None and replica is not None:
                so_far = replica.generated(tracked.request_id)
                tracked.generated = max(tracked.generated, so_far)
        records = self._records
        return SimulationResult(
            requests=tuple(tracked.served() for tracked in self._requests[: self._arrived]),
            samples=tuple(records.samples),
            moves=tuple(records.moves),
            placements=tuple(records.placements),
            tiers=self.serve.tier_counts(),
            replica_seconds=self.serve.replica_seconds,
            duration_s=self.loop.now,
            deaths_seen=records.deaths_seen,
        )

    def close(self) -> None:
        """End all tasks."""
        self.loop.close()

    # Parts that begin and end

    def new_process(self, name: str) -> VirtualProcess:
        """Return a process that runs."""
        return VirtualProcess(self.loop, name, self._spec.start_wall)

    def start_front(self, place: int) -> None:
        """Start the front of one place, in place of one that died."""
        spec = self._spec
        number = self._fronts_made
        self._fronts_made += 1
        seed = self._seeds.randrange(2**32)
        rule = None if spec.picker is None else spec.picker(place, seed)
        front_id = FrontId(f"front-{number}")
        process = self._front_processes[front_id] = self.new_process(front_id)
        self.fronts[place] = SimulatedFront(
            front_id,
            process,
            FrontPicks(rule, self.policy.picking, seed),
            lambda: [r for r in self.serve.replicas if not r.draining],
            self,
            lambda _: self._count_end(),
            spec.delays,
            self._works,
            spec.own_weights,
        )

    def end_front(self, place: int) -> None:
        """End a front with the requests that it serves."""
        front = self.fronts[place]
        if front is not None:
            self.fronts[place] = None
            for _ in front.die():
                self._count_end()

    def start_controller(self, *, restore: bool) -> None:
        """Start a controller."""
        spec = self._spec
        self.controller = SimulatedController(
            self.new_process("controller"),
            self.serve,
            self.catalog,
            lambda: self.policy,
            spec.model if spec.prior is None else spec.prior,
            "profile" if spec.prior is None else "default",
            self.book,
            self._records,
            spec.delays,
            restore=restore,
            scale=self._scale,
            day=spec.day,
        )

    def report(self, report: FrontReport, answer: Callable[[FrontOrders], None]) -> None:
        """Carry a front's report to the controller, and the answer back."""
        process = self._front_processes[report.front]
        controller, call_s = self.controller, self._spec.delays.call_s

        def carry_back(orders: FrontOrders) -> None:
            process.after(call_s, answer, orders)

        if controller is not None:
            controller.process.after(call_s, controller.report, report, carry_back)

    def _make_replica(self, replica_id: ReplicaId) -> SimulatedReplica:
        spec, process = self._spec, self.new_process(replica_id)
        return SimulatedReplica(
            replica_id,
            process,
            spec.shape,
            self.catalog,
            spec.model,
            StepPace(spec.model.slowness_of(replica_id), self._cores, process),
            spec.delays,
            spec.engine,
        )

    def _lose_replica(self, replica: SimulatedReplica) -> None:
        for front in self.fronts:
            if front is not None:
                front.process.after(self._spec.delays.link_lost_s, front.hear_lost, replica)
        if (controller := self.controller) is not None:
            controller.process.after(self._spec.delays.error_s, controller.hear_error, replica)

    # The trace

    def _track(self, index: int, asked: TraceRequest) -> Tracked:
        adapters = self.catalog.digests(asked.adapters)
        limit = REQUEST_TIMEOUT_S if asked.deadline_s is None else asked.deadline_s
        key = DemandKey(asked.tenant, adapters)
        key = self._keys.setdefault(key, key)
        return Tracked(index, asked, key, asked.at + limit)

    def _await_arrival(self) -> None:
        if self._arrived < len(self._requests):
            self.loop.at(self._requests[self._arrived].asked.at, self._arrive)

    def _arrive(self) -> None:
        tracked = self._requests[self._arrived]
        self._arrived += 1
        there = [front for front in self.fronts if front is not None]
        if there:
            there[tracked.index % len(there)].arrive(tracked)
        else:
            tracked.end(FRONT_LOST, self.loop.now)
            self._count_end()
        if self._progress is not None and self._arrived % _PROGRESS_EVERY == 0:
            self._progress(self._arrived / len(self._requests))
        self._await_arrival()

    def _count_end(self) -> None:
        self._ended += 1
        if self._ended == len(self._requests) and self._spec.until is None:
            self.loop.stop()

    def _counts(self) -> tuple[int, int, int, int]:
        held = sum(front.held for front in self.fronts if front is not None)
        return self.serve.running, self.serve.starting, self._arrived - self._ended, held


def _check(spec: SimulationSpec) -> None:
    times = [asked.at for asked in spec.trace]
    if any(later < earlier for earlier, later in itertools.pairwise(times)):
        raise ValueError("trace: requests are not in order of time; sort them by at")
    if spec.fronts < 1:
        raise ValueError(f"fronts is {spec.fronts}, expected at least 1")
    if not 0 <= spec.crowding < math.inf:
        raise ValueError(f"crowding is {spec.crowding}, expected a number that is at least 0")
    if spec.replicas < 0:
        raise ValueError(f"replicas is {spec.replicas}, expected at least 0")
