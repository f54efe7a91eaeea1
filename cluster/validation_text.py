"""Wording of pydantic's validation errors."""

from pydantic import ValidationError


def describe_problems(error: ValidationError, *, root: str = "") -> str:
    """Return every problem as ``path.to.field: message``, separated by semicolons.

    Values are left out: they may be secrets. ``root`` stands for a problem of the whole document.
    """
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or root}: {item['msg']}"
        for item in error.errors(include_url=False, include_input=False)
    )
