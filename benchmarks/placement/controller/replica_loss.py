"""Measures how soon what only a lost replica had is back elsewhere: the rows N8 of ``control``.

In virtual time, with the real controller and the real adapter managers of the replicas, which are
looked into. Requests have ended before the replica is lost, so that nothing but the controller
brings an adapter back.
"""

import math
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.placement.row import ResultRow
from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest
from cluster.placement.control.fleet import CONFIRM_S, SUSPECT_S
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.parts.simulated_cluster import SimulatedCluster
from cluster.simulation.replica.simulated_replica import SimulatedReplica
from cluster.simulation.report.recipe import NamedSource, RunRecipe
from cluster.simulation.spec import Delays, SimulationSpec

REPLICAS, ADAPTERS = 4, 12
RUNS = 10
LOST_AT_S = 60.0
WATCHED_S = 30.0
PROBE_S = 0.01
SEEN = {
    "killed": f"seen by a call that fails {Delays().error_s:g} s later, or by a link that ends "
    f"{Delays().link_lost_s:g} s later and {CONFIRM_S:g} s without an answer",
    "hung": f"seen by {SUSPECT_S:g} s of silence",
}
"""Describes how the controller learns of a loss."""


@dataclass(frozen=True, slots=True)
class ReplicaLoss:
    """One replica lost; seconds since then."""

    copies: int  # that no other replica had or was to have
    told_s: float  # until the last of them was planned elsewhere
    ready_s: float  # until the last of them was ready elsewhere


class LossWatch:
    """Ends a replica that alone has adapters, and looks where they are until all are ready."""

    def __init__(self, cluster: SimulatedCluster, rng: random.Random, how: str) -> None:
        self.loss = ReplicaLoss(0, math.inf, math.inf)
        self._cluster = cluster
        self._rng = rng
        self._how = how

    def strike(self) -> None:
        """End one of the replicas that alone have adapters, or let it hang."""
        serve = self._cluster.serve
        alone = {
            replica: sole
            for replica in serve.replicas
            if (sole := self._ready(replica) - self._others(replica, self._ready, self._desired))
        }
        lost = self._rng.choice(list(alone))
        self.loss = ReplicaLoss(len(alone[lost]), math.inf, math.inf)
        if self._how == "killed":
            serve.kill(lost)
        else:
            serve.hang(lost, math.inf)
        self._probe(lost, alone[lost], self._cluster.loop.time())

    def _probe(self, lost: SimulatedReplica, sole: frozenset[AdapterDigest], since: float) -> None:
        loop, loss = self._cluster.loop, self.loss
        took = loop.time() - since
        if loss.told_s == math.inf and sole <= self._others(lost, self._ready, self._desired):
            loss = replace(loss, told_s=took)
        if sole <= self._others(lost, self._ready):
            loss = replace(loss, ready_s=took)
        else:
            loop.at(loop.time() + PROBE_S, self._probe, lost, sole, since)
        self.loss = loss

    def _others(
        self,
        lost: SimulatedReplica,
        *look: Callable[[SimulatedReplica], frozenset[AdapterDigest]],
    ) -> frozenset[AdapterDigest]:
        """Return what the looks find on the other replicas that run."""
        running = [r for r in self._cluster.serve.replicas if r is not lost and r.process.responds]
        return frozenset().union(*(one(replica) for replica in running for one in look))

    @staticmethod
    def _ready(replica: SimulatedReplica) -> frozenset[AdapterDigest]:
        resident = replica.adapters.resident()
        return frozenset(a.digest for a in resident if a.state is AdapterState.READY)

    @staticmethod
    def _desired(replica: SimulatedReplica) -> frozenset[AdapterDigest]:
        return replica.adapters.desired[0]


def death_rows(rng: random.Random) -> list[ResultRow]:
    """Measure how long after a death or a hang what only that replica had is back elsewhere."""
    found = []
    for how, demanded in (("killed", 2.0), ("hung", 5.0)):
        deaths = [lose_replica(rng, how) for _ in range(RUNS)]
        copies = sum(death.copies for death in deaths)
        lead = (
            f"a replica is {how} at any moment between two ticks (one a second), simulated, "
            f"{SEEN[how]}; {copies} sole copies in {RUNS} runs: "
        )
        for what, words, before, most, times in (
            ("", "the last is planned elsewhere", "16 s", demanded, [d.told_s for d in deaths]),
            ("-serving", "the last is ready elsewhere", "-", 10.0, [d.ready_s for d in deaths]),
        ):
            took = sorted(times)
            found.append(
                ResultRow(
                    f"N8-{how}{what}",
                    f"{lead}{words}, longest",
                    before,
                    f"<= {most:g} s",
                    f"{took[-1]:.2f} s",
                    f"{took[0]:.2f} to {took[-1]:.2f} s, median {statistics.median(took):.2f} s",
                    took[-1] <= most,
                )
            )
    return found


def lose_replica(rng: random.Random, how: str) -> ReplicaLoss:
    """Simulate the loss of one of four replicas, a while after the last request."""
    policy = ClusterPolicy.fixed(REPLICAS)
    spec = RunRecipe(
        SimulationSpec(
            trace=(), policy=policy, catalog=(), replicas=REPLICAS, until=LOST_AT_S + WATCHED_S
        ),
        NamedSource(f"lasting,duration={LOST_AT_S - 2.0:g},rate=8,adapters={ADAPTERS}"),
    )(rng.randrange(2**31))
    cluster = SimulatedCluster(spec, None)
    watch = LossWatch(cluster, rng, how)
    cluster.loop.at(LOST_AT_S + rng.random(), watch.strike)
    try:
        cluster.run()
    finally:
        cluster.close()
    return watch.loss
