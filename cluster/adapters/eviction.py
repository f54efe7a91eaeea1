"""Which idle adapters make room: a pure choice over what the pool holds.

GreedyDual (Young 1994; Cao and Irani 1997): an adapter's priority is the pool's inflation at its
last use plus the cost of bringing it back, in bytes; evicting raises the inflation to the
victim's priority. With equal costs the order is that of last use.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cluster.domain.ids import AdapterDigest


@dataclass(frozen=True, slots=True)
class Evictable:
    """One adapter that may go."""

    digest: AdapterDigest
    nbytes: int
    desired: bool  # in the placement that the controller asked for
    priority: int  # inflation at last use + bytes
    last_use: int  # sequence number


def choose_victims(
    idle: Iterable[Evictable], slots_short: int, bytes_short: int
) -> tuple[Evictable, ...] | None:
    """The fewest-regrets set that frees ``slots_short`` slots and ``bytes_short`` bytes.

    Adapters outside the desired placement go first, then the lowest priority, then the least
    recently used. Nobody is taken whose room turns out not to be needed. None when even all of
    them would not suffice.
    """
    order = sorted(idle, key=lambda e: (e.desired, e.priority, e.last_use))
    chosen: list[Evictable] = []
    freed = 0
    for candidate in order:
        if len(chosen) >= slots_short and freed >= bytes_short:
            break
        chosen.append(candidate)
        freed += candidate.nbytes
    if len(chosen) < slots_short or freed < bytes_short:
        return None
    for candidate in reversed(chosen.copy()):
        if len(chosen) > slots_short and freed - candidate.nbytes >= bytes_short:
            chosen.remove(candidate)
            freed -= candidate.nbytes
    return tuple(chosen)
