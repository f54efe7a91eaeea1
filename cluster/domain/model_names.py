"""Holds the names that a request's ``model`` may have besides those of adapters."""

from typing import Final

AUTO: Final = "auto"
"""The first router; ``auto:NAME`` is a named one."""


def short_name(model_id: str) -> str:
    """Cut the organisation or folders from a base model's id."""
    return model_id.rstrip("/").rsplit("/", 1)[-1]


def base_names(model_id: str) -> tuple[str, str]:
    """List the names under which the base answers: its id, and the id's last part."""
    return model_id, short_name(model_id)
