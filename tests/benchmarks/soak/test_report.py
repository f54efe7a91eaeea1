"""The page says what is off, and whose it is."""

from benchmarks.soak.processes import Drift
from benchmarks.soak.report import SoakReport

MIB = 2**20


def report(**fields: object) -> SoakReport:
    steady = ((100.0 * MIB, 101.0 * MIB), (40.0, 41.0), (12.0, 12.0))
    return SoakReport(
        minutes=60,
        warm_up_s=600,
        seed=0,
        rate=0.4,
        concurrency=24,
        setup={"replicas": 2},
        drifts=[
            Drift("Front-1", *steady, (3, 5)),
            Drift("runtime_env-2", *steady),
            Drift("valkey-server-3", *steady, (3, 5)),
        ],
        store_clients={"braid-decisions": 5},
        **fields,  # type: ignore[arg-type]
    )


def test_a_good_run_can_be_made_again_from_its_page() -> None:
    page = report().page()
    assert "`python -m benchmarks.soak --minutes 60 --rate 0.4`): nothing is off." in page
    assert "5 braid-decisions" in page


def test_our_own_processes_and_rays_are_in_tables_of_their_own() -> None:
    own, foreign = report().page().split("Ray's own processes")
    assert "| Front | 100.0 | 101.0 | +1.0% | 40, 41 | 12, 12 | 3, 5 of 48 |" in own
    assert "| valkey-server |" in own
    assert "runtime_env" not in own
    assert "| runtime_env |" in foreign


def test_rays_growth_is_no_problem_of_ours() -> None:
    page = report(foreign=["runtime_env-2: memory grew"]).page()
    assert "nothing is off" in page
    assert "- Ray's own: runtime_env-2: memory grew" in page
    page = report(problems=["Front-1: memory grew"]).page()
    assert "1 things are off" in page
    assert "- off: Front-1: memory grew" in page
