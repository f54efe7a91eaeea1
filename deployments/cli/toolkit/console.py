"""Output of the commands on the terminal: colours, bars, spinners, errors."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from cluster.errors import BraidError
from deployments.cli.toolkit.refusal import code_of

BAR_WIDTH = 24
DIGEST_CHARACTERS = 12  # that people are shown of a digest; commands accept as many
EIGHTHS = " ▏▎▍▌▋▊▉"

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def show_error(error: BraidError) -> None:
    """Print one red message: the fault, the remedy, and the code of a server's error."""
    code = code_of(error)
    words = Text("error: ", style="bold red") + Text(error.message, style="red")
    err.print(words if code is None else words + Text(f" ({code})", style="dim"), soft_wrap=True)


def note(message: str) -> None:
    """Print something that is not an error but should be known."""
    err.print(Text("note: ", style="bold yellow") + Text(message, style="yellow"), soft_wrap=True)


def plain(line: str) -> None:
    """Print a line to be copied: never wrapped, coloured or read as markup."""
    out.print(line, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as indented JSON, for programs."""
    plain(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def short_digest(digest: str) -> str:
    """Cut a digest to the beginning that people are shown."""
    return digest[:DIGEST_CHARACTERS]


def set_name(shown: Mapping[str, Any]) -> str:
    """Name an adapter set of the controller's state, by digest where an alias is not known."""
    names = zip(shown["adapters"], shown["digests"], strict=True)
    return " + ".join(str(adapter or short_digest(digest)) for adapter, digest in names)


_MODES = {
    ("replicas", "observe"): "what the count would be is said, and it stays",
    ("replicas", "off"): "the count is min",
    ("placement", "observe"): "plans are made and not sent; replicas keep what they have",
    ("placement", "off"): "nothing is placed",
}


def mode_lines(state: Mapping[str, Any]) -> list[str]:
    """Say of the controller's state what the policy keeps it from doing."""
    modes = state.get("modes", {}).items()
    return [f"{part}.mode is {mode}: {_MODES[part, mode]}" for part, mode in modes if mode != "on"]


def history_line(change: Mapping[str, Any]) -> str:
    """Write one change of the controller's state: time, action, adapter, place, reason."""
    at = time.strftime("%H:%M:%S", time.localtime(change["at"]))
    kind = change["kind"].replace("_", " ")
    what = " ".join(word for word in (kind, change["adapter"]) if word)
    where = f" on {change['replica_id']}" if change["replica_id"] else ""
    return f"{at}  {what}{where}: {change['message']}"


def size(nbytes: float) -> str:
    """Write a number of bytes for people, as ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} GiB"


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """Draw a bar that fills ``share`` (0 to 1) of ``width`` cells, to an eighth of a cell."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (EIGHTHS[rest] if rest else "")


def mixture_table(mixture: Sequence[Mapping[str, Any]]) -> Table | Text:
    """Draw a mixture as bars of ``|weight|`` relative to the largest; negative weights are red.

    Args:
        mixture: terms with ``name`` and ``weight``.
    """
    if not mixture:
        return Text("the base model alone", style="dim")
    largest = max(1.0, *(abs(float(term["weight"])) for term in mixture))
    table = Table.grid(padding=(0, 2))
    for term in mixture:
        weight = float(term["weight"])
        table.add_row(
            Text(str(term["name"]), style="bold"),
            Text(
                bar(abs(weight) / largest).ljust(BAR_WIDTH), style="cyan" if weight > 0 else "red"
            ),
            Text(f"{weight:.3f}"),
        )
    return table


@contextmanager
def spinner(what: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner with the time since it began; call the yielded function to change the words.

    Without a terminal, each change is a line.
    """
    if not err.is_terminal:
        yield lambda words: err.print(words, markup=False)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda words: progress.update(task, description=words)


@contextmanager
def counter(*, transient: bool = False) -> Iterator[Callable[[str, str, int, int | None], None]]:
    """Show bars with the time that is left, one for each name.

    Call the yielded function with a name, words that change, units done, and units in all (None:
    not known). Without a terminal, a line is printed every tenth of the way.
    """
    if not err.is_terminal:
        tenths: dict[str, int] = {}

        def say(name: str, words: str, done: int, total: int | None) -> None:
            tenth = 10 * done // total if total else 0
            if tenths.get(name) != tenth:
                tenths[name] = tenth
                share = f"{done}/{total}" if total else ""
                err.print(" ".join(filter(None, (name, share, words))), markup=False)

        yield say
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(BAR_WIDTH),
        TaskProgressColumn(),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=transient) as progress:
        tasks: dict[str, TaskID] = {}

        def report(name: str, words: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total, words="")
            progress.update(tasks[name], completed=done, total=total, words=words)

        yield report


@contextmanager
def fetch_bar() -> Iterator[Callable[[str, int, int | None], None]]:
    """Show the progress of a fetched model: one bar for each step."""
    with counter(transient=True) as report:
        yield lambda what, done, total: report(what, "", done, total)
