"""Reads the operator's policy; every mistake is named by its path, all of them at once."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.errors import ConfigError
from cluster.placement.policy.contradictions import contradictions
from cluster.placement.policy.policy_text import Unreadable, read_text
from cluster.placement.policy.problems import KEY, Location, PolicyProblem, problem_of
from cluster.placement.policy.schema import ClusterPolicy
from cluster.regular_file import read_regular

_LAST_PASS = 8
"""Passes of reading again without what was wrong; one is enough but for a key that is missing."""


@dataclass(frozen=True, slots=True)
class PolicyReading:
    """The policy that a document says, or what is wrong with it."""

    policy: ClusterPolicy | None
    problems: tuple[PolicyProblem, ...] = ()  # by line


def examine_policy(content: bytes, defaults: ClusterPolicy | None = None) -> PolicyReading:
    """Read a document (YAML); entries that it does not have come from ``defaults``."""
    try:
        text = read_text(content)
    except Unreadable as error:
        return PolicyReading(None, (PolicyProblem("", error.message, error.line),))
    base = (defaults or ClusterPolicy()).model_dump(exclude_unset=True, by_alias=True)
    merged = _merge(base, text.tree)
    found = {problem.path: problem for problem in text.problems}
    policy = None
    for _ in range(_LAST_PASS):
        policy, wrong = _validated(merged)
        if policy is not None:
            break
        for location, problem in wrong:
            found.setdefault(problem.path, problem)
            _remove(merged, location)
    if policy is not None:
        broken = set(found)
        above = {path for one in broken for path in _way_up(one)}
        for each in contradictions(policy):
            paths = (each.path, *each.others)
            if above.isdisjoint(paths) and not any(broken & {*_way_up(path)} for path in paths):
                found.setdefault(each.path, PolicyProblem(each.path, each.words))
    problems = [_placed(problem, text.lines) for problem in found.values()]
    problems.sort(key=lambda problem: problem.line or 0)
    return PolicyReading(None if problems else policy, tuple(problems))


def parse_policy(
    content: bytes, *, source: str, defaults: ClusterPolicy | None = None
) -> ClusterPolicy:
    """Parse the policy in ``content``; ``source`` names it in messages.

    Raises:
        ConfigError: entries are wrong; the message has a line for each.
    """
    reading = examine_policy(content, defaults)
    if reading.policy is None:
        raise ConfigError(refusal(reading.problems, source))
    return reading.policy


def load_policy(path: Path | None, defaults: ClusterPolicy | None = None) -> ClusterPolicy:
    """Read the policy in the file, if any; entries it does not have come from ``defaults``.

    Raises:
        ConfigError: the file cannot be read or an entry is wrong; the message has the path.
    """
    if path is None:
        return defaults or ClusterPolicy()
    return parse_policy(read_regular(path), source=str(path), defaults=defaults)


def refusal(problems: Iterable[PolicyProblem], source: str) -> str:
    """Return one line for each problem: where it is written, its path, what to do."""
    return "\n".join(
        f"{source}:{problem.line}: {problem}" if problem.line else f"{source}: {problem}"
        for problem in problems
    )


def _validated(
    tree: dict[str, Any],
) -> tuple[ClusterPolicy | None, list[tuple[Location, PolicyProblem]]]:
    try:
        return ClusterPolicy.model_validate(tree), []
    except ValidationError as error:
        entries: Iterator[Any] = iter(error.errors(include_url=False))
        return None, [(entry["loc"], problem_of(entry)) for entry in entries]


def _merge(base: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = dict(base)
    for key, value in tree.items():
        inherited = base.get(key)
        if isinstance(inherited, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(inherited, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _remove(tree: dict[str, Any], location: Location) -> None:
    """Take out what is wrong; an item of a list, or its name, is replaced, so that others stay."""
    *parents, last = [part for part in location if part != KEY]
    place: Any = tree
    for part in parents:
        if isinstance(place, dict) and part not in place:
            return  # an earlier problem has taken it out
        place = place[part]
    if isinstance(place, list) and isinstance(last, int):
        place[last] = {"adapter": f"wrong-{last}"} if parents == ["adapters"] else {}
    elif last in place:
        del place[last]
    else:
        place[last] = f"missing-{parents[-1]}"


def _way_up(path: str) -> Iterator[str]:
    """Return a path, and then those of the entries that it lies in."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]


def _placed(problem: PolicyProblem, lines: Mapping[str, int]) -> PolicyProblem:
    """Add the line of the nearest entry that the document has."""
    if problem.line is None:
        for path in _way_up(problem.path):
            if path in lines:
                return replace(problem, line=lines[path])
    return problem
