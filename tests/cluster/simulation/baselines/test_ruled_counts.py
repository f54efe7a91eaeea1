"""A rule's count is in force in the whole simulated cluster, not in Serve alone."""

from cluster.domain.ids import ReplicaId
from cluster.placement.policy import ClusterPolicy, DownPolicy, ReplicasPolicy
from cluster.simulation.baselines.counts import FixedCount
from cluster.simulation.simulate import simulate
from tests.support.small_traces import TraceMaker, spec_of


def test_replicas_that_a_rule_keeps_are_not_treated_as_leaving() -> None:
    """Braid would have one replica here, and send nothing to the three that it would end."""
    down = DownPolicy(stable=2.0, drain=0.0)
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=1, max=4, down=down))
    trace = TraceMaker(2).serve([("acme", (f"a{n}",), 0.3) for n in range(8)], 90).requests
    ruled = simulate(spec_of(trace, 8, policy=policy, replicas=4, scaler=FixedCount(4)))
    assert {sample.target for sample in ruled.samples} == {4}
    late = [served.replica for served in ruled.requests if served.asked.at > 30]
    assert set(late) == {ReplicaId(f"r{number}") for number in range(4)}
    fixed = simulate(spec_of(trace, 8, policy=ClusterPolicy.fixed(4), replicas=4))
    assert [s.replica for s in ruled.requests] == [s.replica for s in fixed.requests]
