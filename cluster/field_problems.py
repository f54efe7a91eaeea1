"""Words for what pydantic finds wrong with a document."""

from collections.abc import Iterable

from pydantic import ValidationError


def field_path(location: Iterable[int | str]) -> str:
    """Join a location to a path, as ``adapters[0].weight``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def first_problem(error: ValidationError) -> str:
    """Describe the first field that is wrong, as ``field: reason``."""
    first = error.errors(include_url=False)[0]
    return _describe(first["loc"], first["msg"])


def all_problems(error: ValidationError, *, with_input: bool = False, root: str = "") -> str:
    """Describe every field that is wrong, separated by semicolons.

    Args:
        with_input: append the value that was given. Leave it out where values may be secrets.
        root: stands for a problem of the whole document.
    """
    return "; ".join(
        _describe(item["loc"] or (root,), item["msg"])
        + (f", not {item['input']!r}" if with_input else "")
        for item in error.errors(include_url=False)
    )


def _describe(location: Iterable[int | str], reason: str) -> str:
    return f"{field_path(location)}: {reason.removeprefix('Value error, ')}"
