"""Measured choices on human wordings, as kept in `docs/results/demo-wordings.json`."""

from pathlib import Path

from demo.generator.results_file import ResultRecord, read_result_file
from training.evaluation.answer_metrics import wilson

FILE = "demo-wordings.json"

_ABOUT = """\
Written by `python -m demo wordings`. {n} wordings of `demo/wordings/test.jsonl`, written by hand
before the router was trained, and scored when it was. Near copies of them are taken out of the
training texts; the margin was chosen on `dev.jsonl`. Right is: the wanted skill has the largest
weight or, if the base is wanted, no adapter answers. In brackets Wilson's 95 % interval.

Rows on restricted tenants ask each single turn as the quickstart's `acme` (sql, json, cron, shell)
and `globex` (dates, tickets, equations, json). Wordings and training texts come from one project,
so expect less on yours: the intervals do not cover that. *before*: the router up to version
0.1.0, with its rules; *naive Bayes*: unigrams, on the new training texts; *base*: never an adapter.
"""


class WordingRow(ResultRecord):
    """One kind of wording."""

    n: int
    right: dict[str, int]
    """By router or rival."""


class WordingResults(ResultRecord):
    """One evaluation of the test file."""

    router_version: str
    wordings: int
    digest: str
    """sha256 of the file."""
    rows: dict[str, WordingRow]
    p50_ms: dict[str, float]
    """Median time of a decision, by router or rival."""


def read_wording_results(path: Path) -> WordingResults | None:
    """Read the results in `path`; returns None if the file does not exist.

    Raises:
        ConfigError: the file is not one that `write_result_file` wrote.
    """
    return read_result_file(WordingResults, path)


def wording_lines(results: WordingResults) -> list[str]:
    """Render the report's section as Markdown lines."""
    names = list(results.p50_ms)
    lines = [
        "## Human wordings",
        "",
        _ABOUT.format(n=results.wordings),
        f"Router: version `{results.router_version[:12]}`.",
        "",
        f"| wordings | n | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(names)}",
    ]
    for kind, row in results.rows.items():
        cells = (_share(row.right[name], row.n) for name in names)
        lines.append(f"| {kind} | {row.n} | {' | '.join(cells)} |")
    times = (f"{results.p50_ms[name]:.2f} ms" for name in names)
    lines += [f"| time of a decision, median | | {' | '.join(times)} |", ""]
    return lines


def _share(right: int, n: int) -> str:
    low, high = wilson(right, n)
    return f"{right / n:.0%} ({low:.0%}-{high:.0%})"
