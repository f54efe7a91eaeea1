"""The table of a report: one row a figure, one cell a column, with intervals over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.simulation.report.figures import Figure
from cluster.simulation.report.statistics import Interval, interval
from cluster.simulation.report.trials import Experiment, Trial


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of one column."""

    values: Mapping[int, float]  # by seed
    interval: Interval
    difference: Interval | None  # from the first column, seed by seed; None: the first has none

    @property
    def differs(self) -> bool:
        """Report whether the interval of the difference excludes 0."""
        return self.difference is not None and self.difference.excludes_zero


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One figure of all columns; a column without it has None."""

    figure: Figure
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, slots=True)
class CalibrationNote:
    """The words of a calibration on top of a report."""

    lines: tuple[str, ...]
    too_far: bool  # an error is above the limit within which a report can be trusted


@dataclass(frozen=True, slots=True)
class Report:
    """All that is written about an experiment."""

    setup: Mapping[str, str]  # what was simulated, in words
    columns: tuple[tuple[str, str], ...]  # (name, what it is)
    seeds: tuple[int, ...]
    rows: tuple[ReportRow, ...]
    calibration: CalibrationNote | None = None
    notes: tuple[str, ...] = field(default=())  # what a reader must know before comparing

    def row(self, section: str, name: str) -> ReportRow | None:
        """Return the row of a figure, or None if no column has it."""
        for row in self.rows:
            if (row.figure.section, row.figure.name) == (section, name):
                return row
        return None


def make_report(
    experiment: Experiment,
    trials: Sequence[Trial],
    setup: Mapping[str, str],
    *,
    calibration: CalibrationNote | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Put the trials of an experiment together; their order does not matter."""
    found = {(trial.column, trial.seed): trial.figures for trial in trials}
    figures = _merged_order([list(found[key]) for key in sorted(found)])
    rows = []
    for figure in figures:
        columns = [
            {
                seed: found[column, seed][figure]
                for seed in experiment.seeds
                if figure in found.get((column, seed), {})
            }
            for column in range(len(experiment.columns))
        ]
        first = columns[0]
        rows.append(ReportRow(figure, tuple(_cell(values, first) for values in columns)))
    return Report(
        setup=dict(setup),
        columns=tuple((column.name, column.what) for column in experiment.columns),
        seeds=experiment.seeds,
        rows=tuple(rows),
        calibration=calibration,
        notes=tuple(notes),
    )


def _cell(values: Mapping[int, float], first: Mapping[int, float]) -> Cell | None:
    if not values:
        return None
    both = [values[seed] - first[seed] for seed in values if seed in first]
    compared = interval(both) if both and values is not first else None
    return Cell(dict(values), interval(list(values.values())), compared)


def _merged_order(lists: Sequence[Sequence[Figure]]) -> list[Figure]:
    """Put figures in the order in which runs have them; a section's figures stay together."""
    sections: dict[str, dict[Figure, None]] = {}
    for figures in lists:
        for figure in figures:
            sections.setdefault(figure.section, {}).setdefault(figure)
    return [figure for section in sections.values() for figure in section]
