"""The table, the page, the JSON file and the pictures of an experiment's outcomes."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from cluster.placement.policy import ClusterPolicy
from cluster.simulation.report.drawing import draw_report
from cluster.simulation.report.figures import Figure, run_figures
from cluster.simulation.report.markdown import BETTER, WORSE, cell_text, interval_text, report_page
from cluster.simulation.report.report_document import report_json
from cluster.simulation.report.series import run_series
from cluster.simulation.report.statistics import Interval
from cluster.simulation.report.table import CalibrationNote, Report, make_report
from cluster.simulation.report.trials import Experiment, Trial, policy_column
from cluster.simulation.result import ServedRequest, SimulationResult
from cluster.simulation.spec import SimulationSpec

Serve = Callable[..., ServedRequest]
MakeResult = Callable[[Sequence[ServedRequest]], SimulationResult]
WAIT = Figure("all requests", "TTFT p50", "s")
KEPT = Figure("all requests", "SLO attained", "%", "more")
COUNT = Figure("all requests", "requests", "", "neither")
RARE = Figure("tenant rare", "TTFT p50", "s")
PNG = b"\x89PNG"


def no_spec(seed: int) -> SimulationSpec:
    raise AssertionError(f"nothing is simulated here, seed {seed}")


def experiment(*names: str, seeds: int = 3) -> Experiment:
    columns = tuple(policy_column(name, ClusterPolicy(), f"what {name} is") for name in names)
    return Experiment(no_spec, columns, tuple(range(seeds)), ClusterPolicy())


def trials(*columns: Sequence[Mapping[Figure, float]]) -> list[Trial]:
    return [
        Trial(column, seed, figures, None)
        for column, seeds in enumerate(columns)
        for seed, figures in enumerate(seeds)
    ]


def made(*columns: Sequence[Mapping[Figure, float]], **fields: object) -> Report:
    names = ["in force", "other", "third"][: len(columns)]
    runs = experiment(*names, seeds=len(columns[0]))
    return make_report(runs, trials(*columns), {"trace": "made up"}, **fields)  # type: ignore[arg-type] # passed through by name


def test_differences_are_taken_seed_by_seed() -> None:
    """Seeds differ far more than columns do, and still the columns' order is certain."""
    report = made(
        [{WAIT: 1.0}, {WAIT: 5.0}, {WAIT: 9.0}],
        [{WAIT: 0.9}, {WAIT: 4.9}, {WAIT: 8.91}],
        [{WAIT: 1.2}, {WAIT: 4.7}, {WAIT: 9.1}],
    )
    first, better, unclear = report.rows[0].cells
    assert first is not None
    assert first.difference is None
    assert better is not None
    assert better.differs
    assert cell_text(better, WAIT).endswith(BETTER)
    assert unclear is not None
    assert not unclear.differs


def test_less_and_more_are_judged_by_the_figure() -> None:
    report = made(
        [{WAIT: 1.0, KEPT: 0.5, COUNT: 5}, {WAIT: 1.1, KEPT: 0.6, COUNT: 6}],
        [{WAIT: 2.0, KEPT: 0.8, COUNT: 9}, {WAIT: 2.1, KEPT: 0.9, COUNT: 10}],
    )
    texts = {row.figure.name: cell_text(row.cells[1], row.figure) for row in report.rows}
    assert texts["TTFT p50"].endswith(WORSE)
    assert texts["SLO attained"].endswith(BETTER)
    assert texts["requests"] == "9.5 ± 6.35"


def test_a_figure_that_some_runs_lack_is_shown_for_the_others() -> None:
    report = made([{WAIT: 1.0}, {WAIT: 1.0, RARE: 2.0}], [{WAIT: 1.0}, {WAIT: 1.0}])
    row = report.row("tenant rare", "TTFT p50")
    assert row is not None
    assert row.cells[1] is None
    assert row.cells[0] is not None
    assert dict(row.cells[0].values) == {1: 2.0}
    assert "| - |" in report_page(report)


def test_the_order_of_trials_does_not_matter() -> None:
    columns = [[{WAIT: 1.0}, {WAIT: 2.0}], [{WAIT: 3.0}, {WAIT: 5.0}]]
    runs, found = experiment("a", "b", seeds=2), trials(*columns)
    texts = {report_json(make_report(runs, order, {})) for order in (found, found[::-1])}
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("mean", "half", "unit", "words"),
    [
        (0.1234, 0.01, "s", "123 ± 10 ms"),
        (12.0, 0.5, "s", "12 ± 0.5 s"),
        (0.987, 0.002, "%", "98.7 ± 0.2 %"),
        (1234567.0, None, "MB", "1234567 MB"),
        (0.0, 0.0, "", "0 ± 0"),
        (2.5, 1.0, "h", "2.5 ± 1 h"),
    ],
)
def test_cells_have_units_that_suit(mean: float, half: float | None, unit: str, words: str) -> None:
    assert interval_text(Interval(mean, half), unit) == words  # type: ignore[arg-type] # of Unit


def test_the_page_begins_with_what_each_column_costs_and_gives() -> None:
    hours = Figure("replicas", "replica-hours", "h")
    page = report_page(
        made([{hours: 20.0, KEPT: 0.98, WAIT: 0.5}], [{hours: 25.0, KEPT: 0.99, WAIT: 0.5}])
    )
    lines = page.splitlines()
    head = lines.index("| | replica-hours | SLO attained | TTFT p50 |")
    assert lines[head + 2 : head + 4] == [
        "| **in force** | 20 h | 98 % | 500 ms |",
        "| **other** | 25 h (+25 %) | 99 % (+1.0 points) | 500 ms (same) |",
    ]


def test_a_report_without_calibration_says_so() -> None:
    page = report_page(made([{WAIT: 1.0}, {WAIT: 1.0}]))
    assert "Not calibrated" in page
    assert page.index("Not calibrated") < page.index("TTFT p50")


def test_a_calibration_stands_on_top_and_in_red_where_it_is_too_far() -> None:
    near = CalibrationNote(("TTFT p50: 4 % off",), too_far=False)
    far = CalibrationNote(("TTFT p50: 40 % off",), too_far=True)
    column = [{WAIT: 1.0}, {WAIT: 1.0}]
    assert "[!CAUTION]" not in report_page(made(column, calibration=near))
    page = report_page(made(column, calibration=far))
    assert page.splitlines()[2:5] == [
        "> [!CAUTION]",
        "> **The simulator was too far from the recorded run to be trusted.**",
        "> TTFT p50: 40 % off",
    ]
    assert json.loads(report_json(made(column, calibration=far)))["calibration"]["too_far"]


def test_one_seed_is_told_not_to_say_anything_about_others() -> None:
    page = report_page(made([{WAIT: 1.0}], [{WAIT: 2.0}]))
    assert "One seed" in page
    assert "±" not in page
    assert WORSE not in page


def test_names_do_not_break_the_table() -> None:
    runs = experiment("a|b", "c\nd", seeds=1)
    page = report_page(make_report(runs, trials([{WAIT: 1.0}], [{WAIT: 1.0}]), {}))
    head = next(line for line in page.splitlines() if line.startswith("|  |"))
    assert head == "|  | a\\|b | c d |"


def test_the_json_file_has_every_seeds_value() -> None:
    document = json.loads(report_json(made([{WAIT: 1.0}, {WAIT: 2.0}], [{WAIT: 3.0}, {WAIT: 5.0}])))
    (row,) = document["rows"]
    assert (row["section"], row["name"], row["unit"]) == ("all requests", "TTFT p50", "s")
    assert row["columns"]["other"]["seeds"] == {"0": 3.0, "1": 5.0}
    assert row["columns"]["other"]["difference"]["mean"] == 2.5
    assert row["columns"]["in force"]["difference"] is None


@pytest.mark.slow
def test_pictures_are_drawn_and_the_same_each_time(
    serve: Serve, make_result: MakeResult, tmp_path: Path
) -> None:
    runs = experiment("$a_1$", "b", seeds=2)
    results = [
        make_result([serve(at=number, ttft=0.1 + number * scale) for number in range(50)])
        for scale in (0.01, 0.02)
    ]
    found = [
        Trial(column, seed, run_figures(result, ClusterPolicy()), None)
        for column, result in enumerate(results)
        for seed in range(2)
    ]
    report = make_report(runs, found, {})
    series = [run_series(result) for result in results]
    pictures = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        drawn = draw_report(report, series, tmp_path / name)
        pictures.append({file: (tmp_path / name / file).read_bytes() for file, _ in drawn})
    assert pictures[0] == pictures[1]
    assert set(pictures[0]) == {"course.png", "ttft.png", "placement.png", "costs.png"}
    assert all(content.startswith(PNG) for content in pictures[0].values())


@pytest.mark.slow
def test_a_run_without_requests_or_plans_is_drawn(make_result: MakeResult, tmp_path: Path) -> None:
    result = SimulationResult((), (), (), (), make_result([]).tiers, 0.0, 0.0)
    figures = run_figures(result, ClusterPolicy())
    report = make_report(experiment("a", seeds=1), trials([figures]), {})
    drawn = draw_report(report, [run_series(result)], tmp_path)
    assert "placement.png" not in dict(drawn)
