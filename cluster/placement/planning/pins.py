"""Rules by alias become least copies by digest."""

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from cluster.domain.ids import AdapterDigest
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import AdapterRule


def resolve_pins(
    rules: Iterable[AdapterRule], adapters: Iterable[AdapterInfo], *, replicas: int
) -> tuple[dict[AdapterDigest, int], tuple[str, ...]]:
    """Return least copies by digest, and a message for each rule that names no adapter.

    Such a rule is not an error of the policy: the adapter may be registered later. Of two rules
    for one adapter the larger number of copies counts.
    """
    listed = tuple(adapters)
    by_alias: dict[str, list[AdapterInfo]] = {}
    for info in listed:
        by_alias.setdefault(info.alias, []).append(info)
    least: dict[AdapterDigest, int] = {}
    unresolved: list[str] = []
    for index, rule in enumerate(rules):
        pattern = is_pattern(rule.adapter)
        found = matching(rule, listed if pattern else by_alias.get(rule.adapter, ()))
        owners = sorted({info.owner for info in found})
        if not found:
            unresolved.append(f"adapters[{index}].adapter: {_nothing(rule, listed)}")
        elif len(owners) > 1 and rule.owner is None and not pattern:
            unresolved.append(
                f'adapters[{index}].adapter: "{rule.adapter}" belongs to {", ".join(owners)}; '
                "name the owner"
            )
        else:
            copies = replicas if rule.copies == "all" else min(rule.copies, replicas)
            for info in found:
                least[info.digest] = max(copies, least.get(info.digest, 0))
    return least, tuple(unresolved)


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


def _nothing(rule: AdapterRule, adapters: Iterable[AdapterInfo]) -> str:
    name = rule.adapter if rule.owner is None else f"{rule.owner}/{rule.adapter}"
    known = sorted({info.alias for info in adapters})
    close = difflib.get_close_matches(rule.adapter, known, n=1, cutoff=0.5)
    hint = f'; did you mean "{close[0]}"?' if close and close[0] != rule.adapter else ""
    what = "no adapter matches" if is_pattern(rule.adapter) else "no adapter"
    return f'{what} "{name}"{hint}'
