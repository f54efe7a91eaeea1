"""Rows of a CSV file by the names of its columns, with their lines' numbers."""

import csv
import difflib
from collections.abc import Iterable, Iterator, Sequence

from cluster.errors import ConfigError


class CsvRow:
    """One row; its cells are asked for by column."""

    def __init__(self, cells: dict[str, str], where: str) -> None:
        self._cells = cells
        self.where = where

    def text(self, column: str) -> str:
        """Return a cell, or "" where the file has no such column."""
        return self._cells.get(column, "")

    def count(self, column: str) -> int:
        """Return a number of tokens.

        Raises:
            ConfigError: it is not a whole number of at least 0.
        """
        text = self.text(column)
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if number < 0 or not number.is_integer():
            raise self.wrong(column, "a whole number of at least 0")
        return int(number)

    def seconds(self, column: str) -> float:
        """Return a time in seconds.

        Raises:
            ConfigError: it is not a finite number of at least 0.
        """
        try:
            number = float(self.text(column))
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            raise self.wrong(column, "seconds, at least 0")
        return number

    def wrong(self, column: str, expected: str) -> ConfigError:
        """Return the error of a cell that is not as expected."""
        return ConfigError(
            f'{self.where}: {column}: expected {expected}, found "{self.text(column)}"; '
            "correct the line, or leave it out"
        )


def csv_rows(lines: Iterable[str], source: str, columns: Sequence[str]) -> Iterator[CsvRow]:
    """Yield the rows of a CSV file that has at least ``columns``; empty lines are skipped.

    Args:
        lines: of the file, the names of the columns first.
        source: the file's name, for messages.
        columns: that must be there, in any order.

    Raises:
        ConfigError: a column is missing, or a row has another number of cells than the first line.
    """
    reader = csv.reader(lines)
    names = [name.strip().lstrip("\ufeff") for name in next(reader, [])]
    for column in columns:
        if column not in names:
            close = difflib.get_close_matches(column, names, n=1, cutoff=0.5)
            found = f'found "{close[0]}"' if close else f"found {', '.join(names) or 'nothing'}"
            raise ConfigError(f'{source}:1: expected the column "{column}", {found}')
    try:
        for cells in reader:
            if not cells:
                continue
            where = f"{source}:{reader.line_num}"
            if len(cells) != len(names):
                raise ConfigError(
                    f"{where}: expected {len(names)} cells ({', '.join(names)}), found "
                    f"{len(cells)}; correct the line, or leave it out"
                )
            yield CsvRow(dict(zip(names, map(str.strip, cells), strict=True)), where)
    except csv.Error as error:
        raise ConfigError(f"{source}:{reader.line_num}: not CSV: {error}") from error
