"""The table of results keeps the rows that a run did not renew."""

import importlib
import importlib.util
import inspect
from pathlib import Path

import pytest

from benchmarks.placement.__main__ import JOBS, chosen_jobs, main
from benchmarks.placement.page import MeasuredRow, merge_rows, page, read_rows, write_rows
from benchmarks.placement.row import ResultRow


def measured(job: str, name: str, after: str = "1", met: bool | None = True) -> MeasuredRow:
    row = ResultRow(name, "a|b", "2", "<= 1", after, "5 seeds", met)
    return MeasuredRow(job, f"python -m benchmarks.placement {name}", "a machine", row)


def test_a_run_renews_its_own_rows_and_keeps_the_others(tmp_path: Path) -> None:
    write_rows(
        tmp_path, [measured("counts", "N1"), measured("pick", "N5a"), measured("pick", "N5b")]
    )
    kept = read_rows(tmp_path / "placement.json")
    merged = merge_rows(kept, [measured("pick", "N5a", after="3", met=False)])
    assert [(m.row.name, m.row.after) for m in merged] == [("N1", "1"), ("N5a", "3")]


def test_rows_are_sorted_by_number() -> None:
    names = ["N13", "traces", "N2", "N13 live", "N0", "faults"]
    merged = merge_rows([], [measured(name, name) for name in names])
    assert [m.row.name for m in merged] == ["N0", "N2", "N13", "N13 live", "faults", "traces"]


def test_a_demand_that_is_not_met_stands_out() -> None:
    text = page([measured("a", "N1", met=False), measured("b", "N2", met=None)])
    assert "| N1 | a\\|b | 2 | <= 1 | 1 | 5 seeds | **no** |" in text
    assert "| N2 | a\\|b | 2 | <= 1 | 1 | 5 seeds | - |" in text
    assert "`python -m benchmarks.placement N1`" in text


def test_nothing_measured_yet_is_nothing(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "placement.json") == []


def test_rows_are_chosen_by_name_or_module() -> None:
    assert [job.name for job in chosen_jobs(["N1", "N2", "pick"], live=False)] == ["counts", "pick"]
    assert not any(job.live for job in chosen_jobs([], live=False))
    assert chosen_jobs([], live=True) == list(JOBS)
    with pytest.raises(ValueError, match="N99: not a row; expected some of"):
        chosen_jobs(["N99"], live=False)


def test_every_job_has_its_module() -> None:
    missing = [job.name for job in JOBS if importlib.util.find_spec(job.module) is None]
    assert missing == []


def test_every_job_runs_without_arguments_and_takes_seeds_where_it_says_so() -> None:
    for job in JOBS:
        parameters = inspect.signature(importlib.import_module(job.module).rows).parameters
        assert all(p.default is not p.empty for p in parameters.values()), job.name
        assert ("seeds" in parameters) is job.seeded, job.name


def test_a_job_that_fails_keeps_the_rows_of_others(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # where nothing was recorded
    write_rows(tmp_path, [measured("counts", "N1"), measured("replay", "N22")])
    assert main(["N22", "--out", str(tmp_path)]) == 1
    assert [m.row.name for m in read_rows(tmp_path / "placement.json")] == ["N1", "N22"]
