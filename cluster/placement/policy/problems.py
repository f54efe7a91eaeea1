"""Words for what is wrong with a policy: path, fault, remedy."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

from cluster.placement.policy.schema import (
    AdapterRule,
    ClusterPolicy,
    CopyBounds,
    DownPolicy,
    ScheduleEntry,
    TierPolicy,
    UpPolicy,
)
from cluster.placement.policy.units import printable, shown

KEY = "[key]"
"""Ends the location of a key that is wrong itself."""

Location = tuple[str | int, ...]

_LIKELY, _SURE = 0.5, 0.8
"""Likeness of two words, from 0 to 1, from which on one may be meant by the other."""


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """One mistake in a policy, or one thing that its writer may not have meant."""

    path: str  # empty: of the whole document
    words: str  # what is wrong, and what to do
    line: int | None = None  # from 1, where known

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.words}" if self.path else self.words)


_MODELS_BY_PATH: dict[tuple[str, ...], type[BaseModel]] = {
    (): ClusterPolicy,
    ("adapters",): AdapterRule,
    ("adapters", "copies"): CopyBounds,
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

_KINDS = frozenset({"dict_type", "model_type", "tuple_type"})
"""Mistakes of what has entries: keys and values, or a list."""
_COMPLETE = frozenset({"value_error", "missing", "too_long"})
"""Mistakes whose words need no input behind them."""
_CHOICES = re.compile(r"'(\w+)'")
_GONE = {
    ("pins",): "name it adapters; its entries stay as they are",
    ("picking", "weights"): "remove it; terms are seconds and are added as they are",
    ("picking", "load_bound"): 'set "bound"',
    ("picking", "load_slack"): "remove it; load is bounded only where batches are full",
    ("picking", "stale_after_s"): "remove it; a replica that is silent for 3 s is avoided",
    ("replicas", "target_running_per_replica"): 'set "target", a share of a replica\'s time',
    ("replicas", "upscale_delay_s"): 'set "up: {stable: 10s}"',
    ("replicas", "downscale_delay_s"): 'set "down: {stable: 5m}"',
    ("replicas", "tolerance"): "remove it; fewer replicas must be enough with a margin",
    ("replicas", "window_s"): "remove it; demand is averaged on two clocks",
    ("placement", "forecast"): 'set "forecast" under replicas; it adds replicas alone',
    ("placement", "tolerance"): "remove it; copies follow the work, with a margin",
    ("placement", "max_moves_per_tick"): 'set "churn", a share of all pools\' bytes a minute',
    ("placement", "spare_share"): "remove it; a tenth of each pool is spared",
    ("placement", "cooldown_s"): 'set "payback", the time within which a move must pay',
    ("placement", "window_s"): "remove it; demand is averaged on two clocks",
    ("placement", "idle_rate"): "remove it; demand fades by itself",
    ("placement", "evidence"): "remove it; a rise counts once it is significant",
    ("placement", "lost_after_s"): "remove it; a dead replica is noticed by its lost link",
}
"""Keys that earlier forms had, and what to do instead."""


def path_of(location: Location) -> str:
    """Return a location as people write it, such as ``replicas.schedule[0].from``."""
    path = ""
    for part in location:
        if part == KEY:
            continue
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else part
    return path


def problem_of(error: Mapping[str, Any]) -> PolicyProblem:
    """Return one of pydantic's errors in our words."""
    location: Location = error["loc"]
    if error["type"] == "extra_forbidden":
        return PolicyProblem(path_of(location), _unknown(location))
    if error["input"] is None and error["type"] in _KINDS:
        return PolicyProblem(path_of(location), "is empty; leave it out, or give entries")
    worded = _WORDS.get(error["type"])
    words = worded(error.get("ctx", {})) if worded else error["msg"]
    if error["type"] not in _COMPLETE:
        words += f", not {shown(error['input'])}"
    if location == ("version",):
        words = (
            f"must be 2, not {shown(error['input'])}; write version: 2, and change what is "
            "refused then"
        )
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        words += nearest(error["input"], _CHOICES.findall(error["ctx"]["expected"]), otherwise="")
    return PolicyProblem(path_of(location), words)


def nearest(word: str, known: Iterable[str], *, otherwise: str) -> str:
    """Return the question after the known word that is nearest, else ``otherwise``."""
    close = _closest(word, known, _LIKELY)
    return otherwise if close is None else f'; did you mean "{close}"?'


def _closest(word: str, known: Iterable[str], cutoff: float) -> str | None:
    close = difflib.get_close_matches(word[:64], sorted(known), n=1, cutoff=cutoff)
    return close[0] if close else None


_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "value_error": lambda found: str(found["error"]),
    "missing": lambda _: 'is missing; name an adapter, or a pattern such as "legal-*"',
    "literal_error": lambda found: f"must be {found['expected']}",
    "greater_than_equal": lambda found: f"must be at least {found['ge']:g}",
    "less_than": lambda found: f"must be below {found['lt']:g}",
    "less_than_equal": lambda found: f"must be at most {found['le']:g}",
    "string_type": lambda _: "must be text",
    "bool_type": lambda _: "must be true or false",
    "dict_type": lambda _: "must be a mapping of keys and values",
    "model_type": lambda _: "must be a mapping of keys and values",
    "tuple_type": lambda _: "must be a list",
    "too_long": lambda found: (
        f"must have at most {found['max_length']} entries, not {found['actual_length']}"
    ),
}


def _unknown(location: Location) -> str:
    """Say what to write in place of a key that does not exist, or no longer does."""
    parts = tuple(part for part in location if isinstance(part, str))
    if parts in _GONE:
        return f"is gone; {_GONE[parts]}"
    parents = parts[:-1]
    if len(parents) == 2 and parents[0] == "tiers":
        parents = ("tiers", "*")  # tiers have names of the operator's choice
    known, below, key = _keys(parents), _keys_below(parents), str(location[-1])
    deeper = _closest(key, below, _SURE)
    if deeper is not None and _closest(key, known, _SURE) is None:
        return f'unknown key; did you mean "{deeper}" under {below[deeper]}?'
    listed = f"; known keys: {', '.join(known)}" if known else ""
    return "unknown key" + nearest(key, known, otherwise=listed)


@cache
def _keys(section: tuple[str, ...]) -> tuple[str, ...]:
    model = _MODELS_BY_PATH.get(section)
    fields = model.model_fields.items() if model else ()
    return tuple(sorted(field.alias or name for name, field in fields))


@cache
def _keys_below(section: tuple[str, ...]) -> dict[str, str]:
    """Return the keys of all sections in this one, and where they stand."""
    found: dict[str, list[str]] = {}
    for inner in _MODELS_BY_PATH:
        if len(inner) > len(section) and inner[: len(section)] == section:
            for key in _keys(inner):
                place = ".".join(inner[len(section) :]).replace("*", "NAME")
                found.setdefault(key, []).append(place)
    return {key: " or ".join(places) for key, places in found.items()}
