"""Renders the measures of one tree, or of two side by side, as Markdown."""

from collections.abc import Mapping

from tools.house.measures import LONG, Folder, House

NONE = "-"


def render(now: House, before: House | None = None, since: str = "") -> str:
    """Render all figures; with ``before``, each figure of both trees.

    Args:
        since: the revision of ``before``, for the heading.
    """
    heads = ["before", "now"] if before is not None else ["now"]
    houses = [before, now] if before is not None else [now]
    columns = [_figures(house) for house in houses]
    lines = ["# The house in figures", ""]
    if before is not None:
        lines += [f"Before is {since}; `python -m tools.house --before {since}` writes this.", ""]
    lines += _table(["", *heads], [[name, *(one[name] for one in columns)] for name in columns[-1]])
    lines += ["", "## Folders", "", FOLDER_WORDS, ""]
    names = sorted({name for house in houses for name in house.folders})
    rows = [[f"`{name}`", *(_cell(house.folders.get(name)) for house in houses)] for name in names]
    lines += _table(["folder", *heads], rows)
    lines += _lists(now)
    return "\n".join(lines) + "\n"


FOLDER_WORDS = (
    "Files, lines, arrows between the folder's own parts (files and subfolders) / of those, arrows "
    "back up in the best order / other folders it imports from."
)


def _figures(house: House) -> Mapping[str, str]:
    riddles = house.riddles / max(1, house.docstrings)
    strict = house.strict / max(1, house.own_files)
    takers = len(house.callables)
    return {
        "packages of the wheel": ", ".join(house.packages),
        "their files": f"{house.files:,}",
        "their lines": f"{house.lines:,}",
        "circles between modules": str(len(house.circles)),
        "circles between folders": str(len(house.folder_circles)),
        "arrows back up, all folders of the wheel": str(house.arrows_back),
        "imports against the layer contracts": str(len(house.breaches)),
        "class names that stand twice": str(len(house.class_doubles)),
        "file names that stand twice in a package": str(len(house.file_doubles)),
        "docstrings that open with a riddle": (
            f"{house.riddles:,} of {house.docstrings:,} ({riddles:.1%})"
        ),
        "callables that constructors take": f"{sum(house.callables.values())} in {takers} classes",
        **{f"files of more than {bound} lines": str(house.longer[bound]) for bound in LONG},
        "folders of more than 15 files": str(len(house.full_folders)),
        "files that mypy checks strictly": (
            f"{house.strict:,} of {house.own_files:,} ({strict:.0%}); {house.checked:,} checked"
        ),
        "files of tests": f"{house.test_files:,}",
        "test functions": f"{house.test_functions:,}",
        "assert statements": f"{house.asserts:,}",
    }


def _cell(folder: Folder | None) -> str:
    if folder is None:
        return NONE
    arrows = f"{folder.inner} / {folder.back} / {folder.outer}"
    return f"{folder.files} files, {folder.lines:,} lines, {arrows}"


def _lists(house: House) -> list[str]:
    """List the places behind the figures that ought to be 0."""
    parts = {
        "Circles between modules": [" <-> ".join(one) for one in house.circles],
        "Circles between folders": [" <-> ".join(one) for one in house.folder_circles],
        "Imports against the layer contracts": [f"{a} -> {b}" for a, b in house.breaches],
        "Class names that stand twice": _places(house.class_doubles),
        "File names that stand twice in a package": _places(house.file_doubles),
        "Folders of more than 15 files": [
            f"{name}: {number}" for name, number in sorted(house.full_folders.items())
        ],
        "Constructors that take callables": [
            f"{name}: {number}"
            for name, number in sorted(house.callables.items(), key=lambda one: (-one[1], one[0]))
        ],
    }
    lines = []
    for title, entries in parts.items():
        lines += ["", f"## {title}, now", "", *(f"- {entry}" for entry in entries or ["none"])]
    return lines


def _places(doubles: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [f"{name}: {', '.join(paths)}" for name, paths in doubles.items()]


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    rule = "|" + "---|" * len(heads)
    return [f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]
