"""Finds functions, classes and imports that nothing but tests uses, with vulture.

`tools/dead_code.toml` names what is used in a way that vulture cannot see, each with the reason. An
entry that is not needed any more is a fault as well, so the list stays short.
"""

import argparse
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vulture.core import Item, Vulture

from tools.pins import ROOT
from tools.python_syntax import undisturbed_parsing

ALLOWED = ROOT / "tools" / "dead_code.toml"
KINDS = frozenset({"function", "method", "class", "property", "import", "unreachable_code"})
"""Kinds of vulture's that are looked at: fields are read by name, from JSON or by pydantic."""
CALLED_BY_LIBRARIES = (
    "@*validator",  # pydantic
    "@*serializer",  # pydantic
    "@*.command",  # typer
    "@*.callback",
    "@*.get",  # FastAPI
    "@*.post",
    "@*.put",
    "@*.patch",
    "@*.delete",
    "@*.api_route",
    "@*.exception_handler",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check over all top folders but tests, and plugins; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.dead_code", description=__doc__)
    parser.parse_args(arguments)
    packages = [*ROOT.glob("[!.]*/__init__.py"), *ROOT.glob("plugins/*/*/__init__.py")]
    folders = sorted(path.parent for path in packages)
    try:
        reasons = read_reasons(ALLOWED.read_text(encoding="utf-8"))
    except ValueError as error:
        print(f"{ALLOWED.name}: {error}", file=sys.stderr)
        return 1
    faults = check(folders, reasons, ROOT)
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        print(f"dead code: none; {len(reasons)} names are used from outside")
    return 1 if faults else 0


def check(folders: Iterable[Path], reasons: Mapping[str, str], root: Path) -> list[str]:
    """List what is used nowhere in ``folders`` and has no reason, and reasons without a use.

    Args:
        reasons: by name; a name stands for every function, class or import of that name.
        root: paths are shown relative to it.
    """
    unused = find_unused(folders)
    faults = [
        f"{Path(item.filename).relative_to(root)}:{item.first_lineno}: unused {item.typ} "
        f"{item.name!r}: delete it, or add it to {ALLOWED.name} with the reason"
        for item in unused
        if item.name not in reasons
    ]
    needless = sorted(set(reasons) - {item.name for item in unused})
    return faults + [
        f"{ALLOWED.name}: {name!r} is not unused: delete the entry" for name in needless
    ]


def find_unused(folders: Iterable[Path]) -> list[Item]:
    """Find unused code of ``KINDS``, sorted by file and line."""
    vulture = Vulture(ignore_decorators=list(CALLED_BY_LIBRARIES))
    with undisturbed_parsing():
        vulture.scavenge([str(folder) for folder in folders])
    found = [item for item in vulture.get_unused_code() if item.typ in KINDS]
    return sorted(found, key=lambda item: (str(item.filename), item.first_lineno))


def read_reasons(text: str) -> dict[str, str]:
    """Read a table of reasons: `[REASON]`'s `names` share it.

    Raises:
        ValueError: it is not TOML, or a table has no list of names; the message names the table.
    """
    found: dict[str, str] = {}
    for reason, table in tomllib.loads(text).items():
        names = table.get("names") if isinstance(table, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"[{reason!r}]: expected a list of strings `names`")
        found |= dict.fromkeys(names, reason)
    return found


if __name__ == "__main__":
    sys.exit(main())
