"""Shortens untrusted values for messages, to as much as identifies them."""

from typing import Any

MAX_SHOWN = 80
"""Characters of one value."""


def shown(value: Any) -> str:
    """Return a value's ``repr``, cut in the middle if it is long."""
    text = repr(value) if len(str(value)) < 10 * MAX_SHOWN else _beginning(value)
    if len(text) <= MAX_SHOWN:
        return text
    return f"{text[: MAX_SHOWN - 20]}...{text[-17:]}"


def shown_name(name: str) -> str:
    """Return the name of a key, tensor or module, cut in the middle if it is long."""
    if len(name) <= 2 * MAX_SHOWN:
        return name
    return f"{name[:MAX_SHOWN]}...{name[-MAX_SHOWN + 3 :]}"


def _beginning(value: Any) -> str:
    if isinstance(value, str):
        return repr(value[: 2 * MAX_SHOWN])
    return f"{type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else repr(value)
