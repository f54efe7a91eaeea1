"""Descriptions of runs: of traces by formula, and of logs with their moment and adapters."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import ConfigError
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy, ScheduleEntry
from cluster.simulation.report import recipe
from cluster.simulation.report.recipe import LEAD_S, LogSource, NamedSource, RunRecipe
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import A_MONDAY, SimulationSpec
from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.trace_file import TraceHeader
from tests.support.written_trace import write_trace

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
    assert [info.alias for info in spec.catalog if info is not SQL] == ["other"]
    assert [served.outcome for served in simulate(spec).requests] == ["ok"]


def test_a_trace_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "MOST_REQUESTS", 100)
    assert NamedSource("constant,duration=5,rate=3").requests(0)
    with pytest.raises(ConfigError, match='trace "constant,rate=1e9": more than 100 requests'):
        NamedSource("constant,rate=1e9").requests(0)


def log_of(path: Path, times: Sequence[float], start: float | None) -> Path:
    write_trace(
        path,
        [TraceRequest(at, TenantId("acme"), ("sql",), 8, 4, 4) for at in times],
        TraceHeader(start=start),
    )
    return path


def test_a_schedule_holds_by_the_clock_of_the_log(tmp_path: Path) -> None:
    """It is 07:58 in Berlin when the log begins, and the third replica is due at eight."""
    start = datetime(2026, 11, 30, 6, 58, tzinfo=UTC).timestamp()
    log = log_of(tmp_path / "log.jsonl", range(0, 300, 5), start)
    rush = ScheduleEntry.model_validate(
        {"days": "mon-fri", "from": "08:00", "to": "19:00", "zone": "Europe/Berlin", "min": 3}
    )
    policy = ClusterPolicy(replicas=ReplicasPolicy(min=1, max=4, schedule=(rush,)))
    base = SimulationSpec(trace=(), policy=policy, catalog=())
    samples = simulate(RunRecipe(base, LogSource((log,)))(0)).samples
    assert {sample.target for sample in samples if sample.at < 119} == {1}
    assert {sample.target for sample in samples if sample.at > 122} == {3}


def test_a_log_begins_shortly_before_its_first_request(tmp_path: Path) -> None:
    """A front that has run for days begins its newest file with a time of days."""
    early = log_of(tmp_path / "early.jsonl", (500_000.25, 500_003.0), 1_796_000_000.0)
    late = log_of(tmp_path / "late.jsonl", (499_999.5,), 1_796_000_002.0)
    spec = RunRecipe(BASE, LogSource((late, early)))(0)
    assert [asked.at for asked in spec.trace] == pytest.approx([LEAD_S + 0.25, 11.5, 13.0])
    assert spec.start_wall == 1_796_000_000.0 + 500_000 - LEAD_S


def test_a_trace_without_a_moment_begins_on_a_monday_at_midnight(tmp_path: Path) -> None:
    log = log_of(tmp_path / "log.jsonl", (0.5, 2.0), None)
    for source in (LogSource((log,)), NamedSource("constant,duration=5,rate=3")):
        assert RunRecipe(BASE, source)(0).start_wall == A_MONDAY
    moment = datetime.fromtimestamp(A_MONDAY, UTC)
    assert (moment.weekday(), moment.hour, moment.minute) == (0, 0, 0)
