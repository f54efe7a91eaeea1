"""Pins by alias become least copies by digest."""

import difflib
from collections.abc import Iterable

from cluster.domain.ids import AdapterDigest
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import Pin


def resolve_pins(
    pins: Iterable[Pin], adapters: Iterable[AdapterInfo], *, replicas: int
) -> tuple[dict[AdapterDigest, int], tuple[str, ...]]:
    """Return least copies by digest, and a message for each pin that names no single adapter.

    Such a pin is not an error of the file: the adapter may be registered later.
    """
    by_alias: dict[str, list[AdapterInfo]] = {}
    for info in adapters:
        by_alias.setdefault(info.alias, []).append(info)
    least: dict[AdapterDigest, int] = {}
    unresolved: list[str] = []
    for index, pin in enumerate(pins):
        found = [info for info in by_alias.get(pin.adapter, []) if pin.owner in (None, info.owner)]
        if len(found) == 1:
            digest = found[0].digest
            copies = replicas if pin.copies == "all" else min(pin.copies, replicas)
            least[digest] = max(copies, least.get(digest, 0))
        elif found:
            owners = ", ".join(sorted(info.owner for info in found))
            unresolved.append(
                f'pins[{index}].adapter: "{pin.adapter}" belongs to {owners}; name the owner'
            )
        else:
            name = pin.adapter if pin.owner is None else f"{pin.owner}/{pin.adapter}"
            close = difflib.get_close_matches(pin.adapter, sorted(by_alias), n=1, cutoff=0.5)
            hint = f'; did you mean "{close[0]}"?' if close and close[0] != pin.adapter else ""
            unresolved.append(f'pins[{index}].adapter: no adapter "{name}"{hint}')
    return least, tuple(unresolved)
