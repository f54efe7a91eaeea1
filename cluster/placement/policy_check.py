"""Says which entries of a policy contradict each other, all of them at once.

Each problem begins with the path of the entry below the section that is checked.
"""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

from pydantic_core import PydanticCustomError

from cluster.placement.week import minute_of

if TYPE_CHECKING:
    from cluster.placement.policy import (
        ClusterPolicy,
        PlacementPolicy,
        ReplicasPolicy,
        ScheduleEntry,
    )

CONTRADICTIONS = "contradictions"
"""Type of the pydantic error; its context has the list ``problems``."""
MANY_REPLICAS = 10_000

T = TypeVar("T")


def agreeing(section: T, problems: Iterable[str]) -> T:
    """Return the section unchanged.

    Raises:
        PydanticCustomError: there are problems; the error has all of them.
    """
    found = list(problems)
    if found:
        raise PydanticCustomError(
            CONTRADICTIONS, "{text}", {"text": "; ".join(found), "problems": found}
        )
    return section


def of_schedule(entry: "ScheduleEntry") -> Iterable[str]:
    """Say what is wrong within one entry of the schedule."""
    if minute_of(entry.from_) == minute_of(entry.to) or entry.from_ == "24:00":
        yield f"to: {entry.from_} to {entry.to} is empty; name a later time"
    if entry.min is None and entry.max is None:
        yield "min: the entry changes nothing; give min or max"
    if entry.min is not None and entry.max is not None and entry.min > entry.max:
        yield f"min: {entry.min} is above max {entry.max}; lower min or raise max"


def of_replicas(replicas: "ReplicasPolicy") -> Iterable[str]:
    """Say what is wrong within the bounds of the replica count."""
    low, high = replicas.min, replicas.max
    if high > MANY_REPLICAS:
        yield f"max: {high} is above {MANY_REPLICAS}, the most that is supported; lower it"
    if low > high:
        yield f"min: {low} is above max {high}; lower min or raise max"
    zeros = [f"schedule[{at}].min" for at, entry in enumerate(replicas.schedule) if entry.min == 0]
    if low == 0:
        zeros.insert(0, "min")
    if replicas.zero_after is None:
        for path in zeros:
            yield f"{path}: 0 needs zero_after; set it to a time such as 15m, or {path} to 1"
    elif not zeros:
        yield f"zero_after: it needs min 0, and min is {low}; set min to 0 or leave zero_after out"
    if replicas.mode == "off" and low == 0:
        yield "mode: off keeps min replicas, and min is 0; set min to at least 1"
    for at, entry in enumerate(replicas.schedule):
        if entry.min is not None and entry.max is None and entry.min > high:
            yield (
                f"schedule[{at}].min: {entry.min} is above replicas.max {high}; "
                "lower it, or give the entry a max"
            )
        if entry.max is not None and entry.min is None and entry.max < low:
            yield (
                f"schedule[{at}].max: {entry.max} is below replicas.min {low}; "
                "raise it, or give the entry a min"
            )


def of_placement(placement: "PlacementPolicy") -> Iterable[str]:
    """Say what is wrong within the parameters of placing."""
    least, most = placement.min_copies, placement.max_copies
    if most is not None and least > most:
        yield f"min_copies: {least} is above max_copies {most}; lower it or raise max_copies"
    if placement.retry_s > placement.max_retry_s:
        yield (
            f"retry_s: {placement.retry_s:g} is above max_retry_s {placement.max_retry_s:g}; "
            "lower it or raise max_retry_s"
        )


def of_policy(policy: "ClusterPolicy") -> Iterable[str]:
    """Say what is wrong between the sections."""
    for pattern, tier in policy.tenants.items():
        if tier not in policy.tiers:
            yield f"tenants.{pattern}: there is no tier {tier!r}; {_nearest(tier, policy.tiers)}"
    most = max(
        [policy.replicas.max, *(entry.max or 0 for entry in policy.replicas.schedule)],
    )
    seen: dict[tuple[str | None, str], int] = {}
    for at, pin in enumerate(policy.pins):
        first = seen.setdefault((pin.owner, pin.adapter), at)
        if first != at:
            yield (
                f'pins[{at}].adapter: "{pin.adapter}" is pinned already by pins[{first}]; '
                "remove one of the two"
            )
        if pin.copies != "all" and pin.copies > most:
            yield (
                f"pins[{at}].copies: {pin.copies} copies need as many replicas, but "
                f"replicas.max is {most}; lower copies or raise replicas.max"
            )


def _nearest(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"tiers are {', '.join(names)}" if names else "name it under tiers"
