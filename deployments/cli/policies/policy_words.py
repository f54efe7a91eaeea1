"""Words and YAML of a policy for people."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import yaml

from cluster.placement.policy.units import printable


def comments(kept: Mapping[str, Any]) -> Iterator[str]:
    """Return comments in YAML about a version: who, when, why, and who goes by it."""
    for words in _heading(kept):
        for line in words.splitlines():
            yield f"# {printable(line)}"


def _heading(kept: Mapping[str, Any]) -> Iterator[str]:
    if not kept["version"]:
        yield "no version is kept: the defaults are in force"
    elif kept["author"] is None:
        yield f"version {kept['version']}; its text is lost"
    else:
        yield f"version {kept['version']}, {kept['author']}, {when(kept['at'])}: {kept['message']}"
    if kept.get("managed_by"):
        yield f"managed by {kept['managed_by']}"
    override = kept.get("override")
    if override:
        yield (
            f"overrides the file for another {span(override['left_s'])}, then version "
            f"{override['falls_back_to']} is in force again"
        )
    bounds = kept.get("replicas_now")
    if bounds:
        yield f"replicas now: {bounds['min']} to {bounds['max']}"
    following = kept.get("following")
    if following:
        yield from _followers(kept["version"], following)


def when(at: float) -> str:
    """Write a wall time."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def span(seconds: float) -> str:
    """Write a time in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def as_yaml(tree: Mapping[str, Any]) -> str:
    """Write a policy as a document."""
    text: str = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)
    return text.rstrip("\n")


def _followers(version: int, following: Mapping[str, Any]) -> Iterator[str]:
    controller, fronts = following["controller"], following["fronts"]
    if controller is None:
        yield "the controller does not answer"
        return
    behind = [f"front {front}: {number}" for front, number in fronts.items() if number != version]
    if controller != version:
        behind.insert(0, f"the controller: {controller}")
    count = f"{len(fronts)} front{'' if len(fronts) == 1 else 's'}"
    if behind:
        yield f"not yet followed by all; {'; '.join(behind)}"
    else:
        yield f"followed by the controller and {count}"
