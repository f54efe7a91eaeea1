"""Which idle adapters make room: a pure choice over what a pool holds.

GreedyDual (Young 1994; Cao and Irani 1997) with frequency (Cherkasova 1998): an adapter's priority
is the pool's inflation at its last use plus the cost of bringing it back times its uses; evicting
raises the inflation to the victim's priority, so that what was popular once ages. With equal costs
and uses the order is that of last use.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cluster.adapters.residency.shares import Holding, ShareGuard
from cluster.domain.ids import AdapterDigest

MAX_COUNTED_USES = 8
"""More uses than these raise no priority: what has been popular leaves after as many evictions."""


@dataclass(frozen=True, slots=True)
class Evictable:
    """One adapter that may go."""

    digest: AdapterDigest
    holding: Holding
    desired: bool  # in the placement that the controller asked for
    priority: int
    last_use: int  # sequence number

    @property
    def nbytes(self) -> int:
        """The bytes that come free with it."""
        return self.holding.nbytes


def weight_of(uses: int) -> int:
    """How many times its cost an adapter's uses are worth; one that waits for its first use: 1."""
    return min(max(uses, 1), MAX_COUNTED_USES)


def in_order(idle: Iterable[Evictable]) -> list[Evictable]:
    """Who goes first: outside the desired placement, lowest priority, least recently used."""
    return sorted(idle, key=lambda e: (e.desired, e.priority, e.last_use))


def choose_victims(
    order: Iterable[Evictable],
    slots_short: int,
    bytes_short: int,
    guard: ShareGuard | None = None,
) -> tuple[Evictable, ...] | None:
    """The first of ``order`` that free ``slots_short`` slots and ``bytes_short`` bytes.

    What ``guard`` protects stays. Nobody is taken whose room turns out not to be needed, but for
    the asking tenant's own, which are taken before others' and instead of them. None when even all
    of them would not suffice.
    """
    left = list(order)
    chosen: list[Evictable] = []
    freed = 0
    while len(chosen) < slots_short or freed < bytes_short:
        at = next((i for i, e in enumerate(left) if guard is None or guard.allows(e.holding)), None)
        if at is None:
            return None
        victim = left.pop(at)
        chosen.append(victim)
        freed += victim.nbytes
        if guard is not None:
            guard.take(victim.holding)

    def drop_spare(own: bool) -> None:
        nonlocal freed
        for victim in reversed(chosen.copy()):
            mine = guard is None or guard.is_own(victim.holding)
            spare = len(chosen) > slots_short and freed - victim.nbytes >= bytes_short
            if mine is own and spare:
                chosen.remove(victim)
                freed -= victim.nbytes

    drop_spare(own=False)
    if guard is None or all(guard.is_own(victim.holding) for victim in chosen):
        drop_spare(own=True)
    return tuple(chosen)
