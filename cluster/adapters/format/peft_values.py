"""Reads values of PEFT's ``adapter_config.json``; errors name the malformed one."""

import math
from collections.abc import Mapping
from typing import Any

from cluster.adapters.format.patterns import (
    MAX_ALL_PATTERN_CHARS,
    MAX_PATTERN_CHARS,
    MAX_PATTERNS,
    check_pattern,
)
from cluster.adapters.format.shown import shown, shown_name
from cluster.errors import AdapterError, AdapterMalformed


class ConfigValues:
    """Wraps the parsed object, with a method per kind of value; ``where`` begins every message."""

    def __init__(self, where: str, content: Mapping[str, Any]) -> None:
        self.where = where
        self._content = content
        self._pattern_chars = 0

    def positive_int(self, key: str, default: int) -> int:
        """Read a whole number of at least 1."""
        return self._positive_int(key, self._content.get(key, default))

    def number(self, key: str, default: float) -> float:
        """Read a finite number."""
        return self._number(key, self._content.get(key, default))

    def flag(self, key: str) -> bool:
        """Read true or false; null is false."""
        value = self._content.get(key) or False
        if not isinstance(value, bool):
            raise self._malformed(key, "true or false", value)
        return value

    def optional_string(self, key: str) -> str | None:
        """Read a string or null."""
        value = self._content.get(key)
        if value is not None and not isinstance(value, str):
            raise self._malformed(key, "a string", value)
        return value

    def ranks(self, key: str) -> tuple[tuple[str, int], ...]:
        """Read pattern -> rank, in the file's order."""
        found = self._patterns(key)
        return tuple((p, self._positive_int(_entry(key, p), v)) for p, v in found.items())

    def alphas(self, key: str) -> tuple[tuple[str, float], ...]:
        """Read pattern -> alpha, in the file's order."""
        found = self._patterns(key)
        return tuple((p, self._number(_entry(key, p), v)) for p, v in found.items())

    def module_names(self, key: str) -> tuple[str, ...] | str | None:
        """Read names, sorted, or one pattern; null is None."""
        value = self._content.get(key)
        if value is None:
            return None
        if isinstance(value, str):
            return self._pattern(key, value)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._malformed(key, "a list of strings", value)
        return tuple(sorted(value))

    def layers(self, key: str) -> tuple[int, ...] | None:
        """Read numbers of layers, sorted; null and an empty list are None."""
        value = self._content.get(key)
        if value is None or value == []:
            return None
        layers = [value] if isinstance(value, int) else value
        if not isinstance(layers, list) or not all(isinstance(item, int) for item in layers):
            raise self._malformed(key, "layer numbers", value)
        return tuple(sorted(layers))

    def pattern_list(self, key: str) -> tuple[str, ...]:
        """Read patterns; a single one may be a string."""
        value = self._content.get(key) or []
        patterns = [value] if isinstance(value, str) else value
        if not isinstance(patterns, list):
            raise self._malformed(key, "a list of strings", value)
        return tuple(self._pattern(key, pattern) for pattern in patterns)

    def _patterns(self, key: str) -> dict[str, Any]:
        value = self._content.get(key) or {}
        if not isinstance(value, dict):
            raise self._malformed(key, "an object", value)
        if len(value) > MAX_PATTERNS:
            raise AdapterMalformed(
                f"{self.where}: {key}: expected at most {MAX_PATTERNS} patterns, found {len(value)}"
            )
        for pattern in value:
            self._pattern(key, pattern)
        return value

    def _pattern(self, key: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self._malformed(key, "a pattern", value)
        self._pattern_chars += len(value)
        for length, limit in (
            (len(value), MAX_PATTERN_CHARS),
            (self._pattern_chars, MAX_ALL_PATTERN_CHARS),
        ):
            if length > limit:
                raise AdapterMalformed(
                    f"{self.where}: {key}: expected patterns of at most {limit} characters, "
                    f"found {length}; list the modules' names"
                )
        try:
            check_pattern(value)
        except AdapterError as error:
            raise type(error)(f"{self.where}: {key}: {error.message}") from error
        return value

    def _positive_int(self, key: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._malformed(key, "a whole number of at least 1", value)
        return value

    def _number(self, key: str, value: Any) -> float:
        finite = isinstance(value, int | float) and not isinstance(value, bool)
        if not finite or not _is_finite(value):
            raise self._malformed(key, "a finite number", value)
        return float(value)

    def _malformed(self, key: str, expected: str, value: Any) -> AdapterMalformed:
        return AdapterMalformed(f"{self.where}: {key}: expected {expected}, found {shown(value)}")


def _entry(key: str, pattern: str) -> str:
    return f"{key}[{shown_name(pattern)!r}]"


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False
