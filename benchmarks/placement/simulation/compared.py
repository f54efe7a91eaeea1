"""Compares columns of a simulation with the first one, seed by seed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.placement.simulation.simulated import measure_columns
from cluster.simulation.report.figures import Figure
from cluster.simulation.report.markdown import interval_text
from cluster.simulation.report.statistics import Interval, interval
from cluster.simulation.report.trials import Column, SpecMaker
from cluster.simulation.result import SimulationResult

POINTS = 100.0


@dataclass(frozen=True)
class Compared:
    """The figures of all columns, with one value a seed. The first column is compared with."""

    columns: tuple[tuple[str, str], ...]  # (name, what it is)
    figures: Mapping[Figure, tuple[tuple[float, ...], ...]]  # by column, then by seed

    @property
    def seeds(self) -> int:
        """Return the number of seeds."""
        return len(next(iter(self.figures.values()))[0])

    @property
    def rivals(self) -> range:
        """Return the numbers of all columns but the first."""
        return range(1, len(self.columns))

    def name(self, column: int) -> str:
        """Return a column's name."""
        return self.columns[column][0]

    def mean(self, figure: Figure, column: int = 0) -> Interval:
        """Return a figure's mean over the seeds."""
        return interval(self.figures[figure][column])

    def difference(self, figure: Figure, column: int) -> Interval:
        """Return how much more a column has than the first one, seed by seed."""
        both = zip(self.figures[figure][column], self.figures[figure][0], strict=True)
        return interval([theirs - ours for theirs, ours in both])

    def is_better(self, figure: Figure, column: int) -> bool:
        """Report whether a column is surely better than the first one."""
        return self._is_sure(figure, column, 1.0)

    def is_worse(self, figure: Figure, column: int) -> bool:
        """Report whether a column is surely worse than the first one."""
        return self._is_sure(figure, column, -1.0)

    def _is_sure(self, figure: Figure, column: int, sign: float) -> bool:
        found = self.difference(figure, column)
        better = found.mean if figure.better == "more" else -found.mean
        return found.excludes_zero and sign * better > 0

    def is_apart(self, figure: Figure, column: int) -> bool:
        """Report whether the first column is better, and the two intervals do not overlap."""
        ours, theirs = self.mean(figure), self.mean(figure, column)
        low, high = (theirs, ours) if figure.better == "more" else (ours, theirs)
        return low.high is not None and high.low is not None and low.high < high.low


def compare(
    make: SpecMaker,
    columns: Sequence[Column],
    seeds: int,
    measure: Callable[[SimulationResult], Mapping[Figure, float]],
    what: str,
) -> Compared:
    """Run all columns on the same requests for each seed."""
    changes = [column.change for column in columns]
    found = measure_columns(make, changes, seeds, measure, what)
    return Compared(
        tuple((column.name, column.what) for column in columns),
        {
            figure: tuple(tuple(run[figure] for run in column) for column in found)
            for figure in found[0][0]
        },
    )


def difference_text(found: Interval, figure: Figure) -> str:
    """Write a difference with its sign; of shares in points."""
    if figure.unit == "%":
        return f"{_signed(POINTS * found.mean)}{_spread(found, POINTS)} points"
    text = interval_text(found, figure.unit)
    return text if found.mean < 0 else f"+{text}"


def _signed(value: float) -> str:
    return f"{value:+.1f}"


def _spread(found: Interval, factor: float) -> str:
    return "" if found.half is None else f" ± {factor * found.half:.1f}"


def compared_page(title: str, lines: Iterable[str], found: Compared) -> str:
    """Write all figures, and what each column has more than the first one."""
    return "\n".join(
        [
            f"# {title}",
            "",
            *lines,
            "",
            *_table(("column", "what it is"), found.columns),
            "",
            f"## Figures: mean over {found.seeds} seeds, ± half of the 95 % interval",
            "",
            *_figures(found, range(len(found.columns)), _mean_cell),
            "",
            f"## More than {found.name(0)}, seed by seed",
            "",
            "Bold: the 95 % interval of the difference excludes 0.",
            "",
            *_figures(found, found.rivals, _difference_cell),
            "",
        ]
    )


def write_compared(folder: Path, stem: str, page: str) -> None:
    """Write the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.md").write_text(page, encoding="utf-8")


def _figures(
    found: Compared, columns: Iterable[int], cell: Callable[[Compared, Figure, int], str]
) -> list[str]:
    """Write a table with a line for each column of the simulation."""
    head = ("", *(f"{figure.section}: {figure.name}" for figure in found.figures))
    lines = [
        (found.name(column), *(cell(found, figure, column) for figure in found.figures))
        for column in columns
    ]
    return _table(head, lines)


def _mean_cell(found: Compared, figure: Figure, column: int) -> str:
    return interval_text(found.mean(figure, column), figure.unit)


def _difference_cell(found: Compared, figure: Figure, column: int) -> str:
    difference = found.difference(figure, column)
    text = difference_text(difference, figure)
    return f"**{text}**" if difference.excludes_zero else text


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
        *("| " + " | ".join(line) + " |" for line in lines),
    ]
