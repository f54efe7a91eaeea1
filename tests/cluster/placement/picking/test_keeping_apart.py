"""Two tenants on two replicas: one asks for adapter after adapter, the other now and then."""

import random
from dataclasses import dataclass, field

import pytest

from cluster.placement.policy import ClusterPolicy, PickingPolicy, ScorerWeights
from tests.support.placement_simulator import SimReplica, Simulation, Stream

GREEDY, QUIET = "globex", "acme"


@dataclass
class Watched(SimReplica):
    """Remembers of the quiet tenant's requests whether they came upon the other's."""

    met: list[bool] = field(default_factory=list)

    def submit(self, request, catalog, now: float) -> None:
        if request.tenant == QUIET:
            others = [r for _, r in self.running] + list(self.queue)
            self.met.append(any(r.tenant == GREEDY for r in others))
        super().submit(request, catalog, now)


def share_met(build, weight: float, greedy_rate: float, *, seconds: float = 400.0) -> float:
    """Return the share of the quiet tenant's requests that met a replica busy with the other."""
    cold = [build.info(f"cold-{n}", owner=GREEDY, nbytes=100) for n in range(40)]
    hot = build.info("hot", owner=QUIET, nbytes=100)
    replicas = [Watched(f"r{n}", 8, 800, batch=8, service_s=0.7, load_s=0.03) for n in range(2)]
    policy = ClusterPolicy.fixed(2).model_copy(
        update={"picking": PickingPolicy(weights=ScorerWeights(tenants=weight))}
    )
    cluster = Simulation(replicas, [*cold, hot], policy, random.Random(3))
    streams = [Stream(GREEDY, (info.digest,), greedy_rate / len(cold)) for info in cold]
    cluster.run([*streams, Stream(QUIET, (hot.digest,), 1.5)], seconds)
    met = [came_upon for replica in replicas for came_upon in replica.met]
    assert len(met) > seconds
    return sum(met) / len(met)


@pytest.mark.slow
def test_a_greedy_tenant_leaves_the_other_a_quiet_replica(build) -> None:
    for rate in (1.5, 2.5):
        together = share_met(build, 0.0, rate)
        apart = share_met(build, ScorerWeights().tenants, rate)
        assert apart < together / 2


def test_no_replica_is_kept_for_a_tenant_that_others_have_to_wait_for(build) -> None:
    hot = build.info("hot", nbytes=100)
    replicas = [SimReplica(f"r{n}", 8, 800, batch=4, service_s=1.0) for n in range(2)]
    cluster = Simulation(replicas, [hot], ClusterPolicy.fixed(2), random.Random(3))
    many, few = Stream(GREEDY, (hot.digest,), 6.0), Stream(QUIET, (hot.digest,), 0.5)
    cluster.run([many, few], 200)
    assert abs(replicas[0].requests - replicas[1].requests) < 0.25 * cluster.report.requests
    assert max(len(replica.queue) for replica in replicas) < 8
