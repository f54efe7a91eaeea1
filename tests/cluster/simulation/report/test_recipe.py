"""Descriptions of runs: traces by formula are bounded, and known adapters are found in logs."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import ConfigError
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import ClusterPolicy
from cluster.simulation.report import recipe
from cluster.simulation.report.recipe import NamedSource, RunRecipe
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import SimulationSpec
from cluster.simulation.trace import TraceRequest

DIGEST = AdapterDigest("abf6d3a3de60" + 52 * "0")
SQL = AdapterInfo(DIGEST, "sql", TenantId("acme"), 5_000_000)
BASE = SimulationSpec(trace=(), policy=ClusterPolicy.fixed(1), catalog=())


@dataclass(frozen=True)
class GivenSource:
    """Requests for one set."""

    adapters: tuple[str, ...]
    words: str = "given"

    def requests(self, seed: int) -> Sequence[TraceRequest]:
        del seed
        return [TraceRequest(0.5, TenantId("acme"), self.adapters, 8, 4, 4)]


def test_an_adapter_of_a_log_is_the_one_that_the_cluster_has() -> None:
    known = {"sql": SQL, "sql@abf6d3a3de60": SQL, DIGEST: SQL}
    spec = RunRecipe(BASE, GivenSource(("other@000000000000", "sql@abf6d3a3de60")), known)(0)
    assert SQL in spec.catalog  # with its size and the name that pins have for it
    assert [info.alias for info in spec.catalog if info is not SQL] == ["other@000000000000"]
    assert [served.outcome for served in simulate(spec).requests] == ["ok"]


def test_a_trace_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "MOST_REQUESTS", 100)
    assert NamedSource("constant,duration=5,rate=3").requests(0)
    with pytest.raises(ConfigError, match='trace "constant,rate=1e9": more than 100 requests'):
        NamedSource("constant,rate=1e9").requests(0)
