"""Rules by alias become least and most copies by digest."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from cluster.domain.ids import AdapterDigest
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import AdapterRule, CopyBounds


@dataclass(frozen=True, slots=True)
class ResolvedPins:
    """The adapters of each rule that names some, for as long as rules and adapters stay."""

    found: tuple[tuple[CopyBounds, tuple[AdapterDigest, ...]], ...] = ()
    """Copies that a rule asks for and allows, and of which adapters."""
    unknown: tuple[str, ...] = ()  # a message for each rule that names no adapter

    def least_copies(self, replicas: int) -> dict[AdapterDigest, int]:
        """Return least copies by digest; of two rules for one adapter the larger number counts."""
        least: dict[AdapterDigest, int] = {}
        for copies, digests in self.found:
            if copies.min is not None:
                wanted = replicas if copies.min == "all" else min(copies.min, replicas)
                for digest in digests:
                    least[digest] = max(wanted, least.get(digest, 0))
        return least

    def most_copies(self) -> dict[AdapterDigest, int]:
        """Return most copies by digest; of two rules for one adapter the smaller number counts."""
        most: dict[AdapterDigest, int] = {}
        for copies, digests in self.found:
            if copies.max is not None:
                for digest in digests:
                    most[digest] = min(copies.max, most.get(digest, copies.max))
        return most

    def replicas_needed(self, most: int) -> int:
        """Return how many replicas the copies need, ``most`` at most; "all" needs none."""
        counted = [c.min for c, digests in self.found if isinstance(c.min, int) and digests]
        return min(max(counted, default=0), most)


def resolve_pins(rules: Iterable[AdapterRule], adapters: Iterable[AdapterInfo]) -> ResolvedPins:
    """Find the adapters of each rule.

    A rule that names none is not an error of the policy: the adapter may be registered later.
    """
    listed = tuple(adapters)
    by_alias: dict[str, list[AdapterInfo]] = {}
    for info in listed:
        by_alias.setdefault(info.alias, []).append(info)
    resolved: list[tuple[CopyBounds, tuple[AdapterDigest, ...]]] = []
    unknown: list[str] = []
    for index, rule in enumerate(rules):
        pattern = is_pattern(rule.adapter)
        found = matching(rule, listed if pattern else by_alias.get(rule.adapter, ()))
        owners = sorted({info.owner for info in found})
        if not found:
            unknown.append(f"adapters[{index}].adapter: {_nothing(rule, by_alias)}")
        elif len(owners) > 1 and rule.owner is None and not pattern:
            unknown.append(
                f'adapters[{index}].adapter: "{rule.adapter}" belongs to {", ".join(owners)}; '
                "name the owner"
            )
        else:
            resolved.append((rule.copies, tuple(info.digest for info in found)))
    return ResolvedPins(tuple(resolved), tuple(unknown))


def matching(rule: AdapterRule, adapters: Iterable[AdapterInfo]) -> tuple[AdapterInfo, ...]:
    """Return the adapters that a rule is about."""
    return tuple(
        info
        for info in adapters
        if fnmatchcase(info.alias, rule.adapter) and rule.owner in (None, info.owner)
    )


def is_pattern(adapter: str) -> bool:
    """Report whether a rule's name may stand for several adapters."""
    return not set(adapter).isdisjoint("*?[")


def _nothing(rule: AdapterRule, aliases: Iterable[str]) -> str:
    name = rule.adapter if rule.owner is None else f"{rule.owner}/{rule.adapter}"
    close = difflib.get_close_matches(rule.adapter, sorted(aliases), n=1, cutoff=0.5)
    hint = f'; did you mean "{close[0]}"?' if close and close[0] != rule.adapter else ""
    what = "no adapter matches" if is_pattern(rule.adapter) else "no adapter"
    return f'{what} "{name}"{hint}'
