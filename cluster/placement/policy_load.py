"""Reads the operator's policy file; a mistake becomes a ``ConfigError`` naming file and entry."""

import copy
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cluster.errors import ConfigError
from cluster.placement.policy import (
    ClusterPolicy,
    DownPolicy,
    Pin,
    ScheduleEntry,
    TierPolicy,
    UpPolicy,
)
from cluster.placement.policy_check import CONTRADICTIONS
from cluster.regular_file import read_regular
from cluster.strict_yaml import load_strict_yaml

_MODELS_BY_PATH: dict[tuple[str, ...], type[BaseModel]] = {
    (): ClusterPolicy,
    ("pins",): Pin,
    ("tiers", "*"): TierPolicy,
    ("replicas", "up"): UpPolicy,
    ("replicas", "down"): DownPolicy,
    ("replicas", "schedule"): ScheduleEntry,
    **{
        (name,): field.annotation
        for name, field in ClusterPolicy.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    },
}

_GONE = {
    ("picking", "weights"): "remove it; terms are seconds and are added as they are",
    ("picking", "load_bound"): 'set "bound"',
    ("picking", "load_slack"): "remove it; load is bounded only where batches are full",
    ("picking", "stale_after_s"): "remove it; a replica that is silent for 3 s is avoided",
    ("replicas", "target_running_per_replica"): 'set "target", a share of a replica\'s time',
    ("replicas", "upscale_delay_s"): 'set "up: {stable: 10s}"',
    ("replicas", "downscale_delay_s"): 'set "down: {stable: 5m}"',
    ("replicas", "tolerance"): "remove it; fewer replicas must be enough with a margin",
    ("replicas", "window_s"): "remove it; demand is averaged on two clocks",
    ("placement", "window_s"): "remove it; demand is averaged on two clocks",
    ("placement", "idle_rate"): "remove it; demand fades by itself",
    ("placement", "evidence"): "remove it; a rise counts once it is significant",
    ("placement", "lost_after_s"): "remove it; a dead replica is noticed by its lost link",
}
"""Keys that earlier versions had, and what to do instead."""


def load_policy(path: Path, defaults: ClusterPolicy | None = None) -> ClusterPolicy:
    """Read the policy in the file; entries it does not have come from ``defaults``.

    Raises:
        ConfigError: the file cannot be read or an entry is wrong; the message has the path.
    """
    return parse_policy(read_regular(path), source=str(path), defaults=defaults)


def parse_policy(
    content: bytes, *, source: str, defaults: ClusterPolicy | None = None
) -> ClusterPolicy:
    """Parse the policy in ``content`` (YAML); ``source`` names it in messages.

    Raises:
        ConfigError: as ``load_policy``.
    """
    try:
        tree = load_strict_yaml(content)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}{where}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: expected a mapping of sections, found {_kind(tree)}")
    try:
        base = (defaults or ClusterPolicy()).model_dump(exclude_unset=True, by_alias=True)
        merged = _merge(base, tree)
        return ClusterPolicy.model_validate(merged)
    except ValidationError as error:
        problems = [text for entry in error.errors() for text in _problems(dict(entry))]
        problems += [each for each in _hidden_problems(merged, error) if each not in problems]
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in problems)) from error


class PolicyFile:
    """The policy file, read again when it changes; a broken edit keeps the last good policy.

    Owned by one thread. ``error`` is what is wrong with the file's present content, or None.
    """

    def __init__(self, path: Path | None, defaults: ClusterPolicy | None = None) -> None:
        """Read the file once.

        Raises:
            ConfigError: a first policy that is wrong is refused; there is no last good one yet.
        """
        self._path = path
        self._defaults = defaults or ClusterPolicy()
        self._content: bytes | None = None
        self.policy = self._defaults
        self.error: str | None = None
        if path is not None:
            self._content = read_regular(path)
            self.policy = parse_policy(self._content, source=str(path), defaults=self._defaults)

    def sync(self) -> bool:
        """Read the file again. Returns True if ``policy`` changed.

        The content itself is compared: a file replaced within the clock's resolution, as mounted
        configuration often is, has the modification time of its predecessor.
        """
        if self._path is None:
            return False
        try:
            content = read_regular(self._path)
            if content == self._content and self.error is None:
                return False
            policy = parse_policy(content, source=str(self._path), defaults=self._defaults)
        except ConfigError as error:
            self.error = error.message
            return False
        changed = policy != self.policy
        self._content, self.policy, self.error = content, policy, None
        return changed


def _without_values(tree: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Drop sections without entries (``replicas:`` alone): they mean their defaults."""
    return {key: value for key, value in tree.items() if value is not None}


def _merge(base: Mapping[str, Any], tree: Mapping[Any, Any]) -> dict[Any, Any]:
    merged: dict[Any, Any] = dict(base)
    for key, value in _without_values(tree).items():
        inherited = base.get(key)
        if isinstance(inherited, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(inherited, value)
        else:
            merged[key] = value
    return merged


def _hidden_problems(tree: dict[Any, Any], error: ValidationError) -> list[str]:
    """Return what contradicts itself once unknown keys, which hide it, are out of the way."""
    known = copy.deepcopy(tree)
    for entry in error.errors():
        if entry["type"] == "extra_forbidden":
            *parents, last = entry["loc"]
            place: Any = known
            for part in parents:
                place = place[part]
            place.pop(last, None)
    try:
        ClusterPolicy.model_validate(known)
    except ValidationError as found:
        return [
            text
            for entry in found.errors()
            if entry["type"] == CONTRADICTIONS
            for text in _problems(dict(entry))
        ]
    return []


def _problems(entry: dict[str, Any]) -> Iterator[str]:
    location: tuple[str | int, ...] = entry["loc"]
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else str(part)
    if entry["type"] == CONTRADICTIONS:
        for problem in entry["ctx"]["problems"]:
            yield f"{path}.{problem}" if path else problem
        return
    if entry["type"] == "extra_forbidden":
        message = _unknown(location)
    else:
        message = entry["msg"].removeprefix("Value error, ")
        if entry["type"] not in ("value_error", "missing"):
            message += f", not {entry['input']!r}"
    yield f"{path}: {message}" if path else message


def _unknown(location: tuple[str | int, ...]) -> str:
    """Say what to write in place of a key that does not exist, or no longer does."""
    parts = tuple(part for part in location if isinstance(part, str))
    if parts in _GONE:
        return f"is gone; {_GONE[parts]}"
    parents = parts[:-1]
    if len(parents) == 2 and parents[0] == "tiers":
        parents = ("tiers", "*")  # tiers have names of the operator's choice
    model = _MODELS_BY_PATH.get(parents)
    known = (
        sorted(field.alias or name for name, field in model.model_fields.items()) if model else []
    )
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    if close:
        return f'unknown key; did you mean "{close[0]}"?'
    return f"unknown key; known keys: {', '.join(known)}" if known else "unknown key"


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "a list"
    return "text" if isinstance(value, str) else type(value).__name__
