"""Finds which module imports which, the circles among them, and the arrows against an order."""

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise

from tools.house.tree import Module

Arrows = dict[str, frozenset[str]]
"""Names of modules, or of rooms, with those that they import."""
EXACT = 14
"""Rooms of one tangle up to which the fewest arrows back are counted exactly."""


def find_imports(modules: Iterable[Module]) -> Arrows:
    """Find the project's own imports: at the top, within functions, and for type checkers."""
    by_name = {module.name: module for module in modules}
    return {
        name: frozenset(
            found for found in _imported(module, by_name) if found in by_name and found != name
        )
        for name, module in by_name.items()
    }


def group(arrows: Mapping[str, Collection[str]], room_of: Mapping[str, str]) -> Arrows:
    """Join modules to rooms; a module without a room is left out, as are arrows within one."""
    joined: dict[str, set[str]] = {room: set() for room in room_of.values()}
    for name, targets in arrows.items():
        if name in room_of:
            rooms = {room_of[target] for target in targets if target in room_of}
            joined[room_of[name]] |= rooms - {room_of[name]}
    return {room: frozenset(targets) for room, targets in joined.items()}


def find_circles(arrows: Mapping[str, Collection[str]]) -> list[tuple[str, ...]]:
    """Find the groups of names that reach each other, each sorted, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles: list[tuple[str, ...]] = []
    for start in sorted(arrows):
        if start in order:
            continue
        walk = [(start, iter(sorted(arrows[start])))]
        order[start] = low[start] = len(order)
        stack.append(start)
        while walk:
            name, targets = walk[-1]
            target = next(targets, None)
            if target is None:
                walk.pop()
                if walk:
                    low[walk[-1][0]] = min(low[walk[-1][0]], low[name])
                if low[name] == order[name]:
                    place = stack.index(name)
                    members, stack[place:] = stack[place:], []
                    if len(members) > 1:
                        circles.append(tuple(sorted(members)))
            elif target not in order:
                order[target] = low[target] = len(order)
                stack.append(target)
                walk.append((target, iter(sorted(arrows.get(target, ())))))
            elif target in stack:
                low[name] = min(low[name], order[target])
    return sorted(circles)


def count_arrows_back(arrows: Mapping[str, Collection[str]]) -> int:
    """Count the arrows that run back up in the best order of the rooms: 0 if there is no circle.

    Exact for tangles of up to ``EXACT`` rooms; for larger ones an upper bound.
    """
    total = 0
    for circle in find_circles(arrows):
        within = {name: [one for one in arrows[name] if one in circle] for name in circle}
        total += _fewest_back(within) if len(circle) <= EXACT else _some_back(within)
    return total


def layer_breaches(arrows: Arrows, layers: Iterable[str]) -> list[tuple[str, str]]:
    """List imports that run up in a contract of import-linter, or between independent siblings.

    Args:
        layers: from the highest to the lowest, as the contract writes them; "a | b" are
            independent of each other, "a : b" may import each other.
    """
    levels = [
        ([name.strip() for name in layer.replace(":", "|").split("|")], ":" in layer)
        for layer in layers
    ]
    level_of: dict[str, tuple[int, str, bool]] = {
        name: (level, name, joined)
        for level, (names, joined) in enumerate(levels)
        for name in names
    }

    def place(module: str) -> tuple[int, str, bool] | None:
        parts = module.split(".")
        prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        return next((level_of[one] for one in prefixes if one in level_of), None)

    found = []
    for name, targets in sorted(arrows.items()):
        for target in sorted(targets):
            source, reached = place(name), place(target)
            if source is None or reached is None or source[1] == reached[1]:
                continue
            if reached[0] < source[0] or (reached[0] == source[0] and not source[2]):
                found.append((name, target))
    return found


def _imported(module: Module, known: Collection[str]) -> Iterator[str]:
    is_package = module.path.endswith("__init__.py")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.name.split(".")
                kept = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*kept, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in known else base


def _fewest_back(arrows: Mapping[str, Collection[str]]) -> int:
    """Solve the feedback arc problem by dynamic programming over sets of rooms."""
    names = sorted(arrows)
    targets = [sum(1 << names.index(one) for one in arrows[name]) for name in names]
    best = [0] * (1 << len(names))
    for chosen in range(1, 1 << len(names)):
        # Rooms are put from the bottom up: what the last one imports and is not there yet is above.
        best[chosen] = min(
            best[chosen & ~(1 << last)] + (targets[last] & ~chosen).bit_count()
            for last in range(len(names))
            if chosen >> last & 1
        )
    return best[-1]


def _some_back(arrows: Mapping[str, Collection[str]]) -> int:
    """Bound the number from above: rooms by imports less importers, improved by swaps."""
    importers = {name: sum(name in targets for targets in arrows.values()) for name in arrows}
    order = sorted(arrows, key=lambda name: (len(arrows[name]) - importers[name], name))
    swapped = True
    while swapped:
        swapped = False
        for lower, upper in pairwise(range(len(order))):
            first, second = order[lower], order[upper]
            if (second in arrows[first]) > (first in arrows[second]):
                order[lower], order[upper] = second, first
                swapped = True
    place = {name: index for index, name in enumerate(order)}
    return sum(place[one] > place[name] for name, targets in arrows.items() for one in targets)
