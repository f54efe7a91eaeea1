"""Orders those who wait: tenants take turns by weight, and within a tenant the oldest is first."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cluster.domain.ids import TenantId
from cluster.tenancy.shares import DEFAULT_WEIGHT
from cluster.tenancy.turns import Flow, Turns

W = TypeVar("W", bound=Hashable)

MOST_ENDS = 64
"""Ends of tenants' turns that are kept before old ones are dropped."""


@dataclass(slots=True, eq=False)
class _TenantWaiters(Flow, Generic[W]):
    tenant: TenantId | None = None
    waiters: OrderedDict[W, None] = field(default_factory=OrderedDict)


class WaitingLine(Generic[W]):
    """Holds waiters by tenant. A call costs a few comparisons, however many wait."""

    def __init__(self) -> None:
        self._tenants: dict[TenantId | None, _TenantWaiters[W]] = {}
        self._ends: dict[TenantId | None, int] = {}  # of tenants that left ahead of the clock
        self._most_ends = MOST_ENDS  # until those are dropped that the clock has reached
        self._turns = Turns[_TenantWaiters[W]]()
        self._first: OrderedDict[W, None] = OrderedDict()  # put back; the last one goes first
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, tenant: TenantId | None, waiter: W, weight: float = DEFAULT_WEIGHT) -> None:
        """Add a waiter behind those of its tenant; a tenant that is new has its turn last.

        One that had more turns than its weight gives it has its next one when it is due.

        Args:
            weight: the tenant's from now on.
        """
        if waiter in self._first:
            return
        found = self._tenants.get(tenant)
        if found is None:
            start = self._ends.pop(tenant, 0)
            found = self._tenants[tenant] = _TenantWaiters(tenant=tenant, start=start)
            self._turns.enter(found)
        found.weight = weight
        self._size += waiter not in found.waiters
        found.waiters[waiter] = None

    def has_waiters(self, tenant: TenantId) -> bool:
        """Return whether a tenant has waiters, but for those put back."""
        return tenant in self._tenants

    def put_back(self, waiter: W) -> None:
        """Add a waiter before all others, for one whose turn it was."""
        self._size += waiter not in self._first
        self._first[waiter] = None
        self._first.move_to_end(waiter)

    def pop(self) -> W:
        """Take the waiter whose turn it is.

        Raises:
            LookupError: no one waits.
        """
        if not self._size:
            raise LookupError("no one waits")
        self._size -= 1
        if self._first:
            return self._first.popitem()[0]
        found = self._turns.first
        assert found is not None  # each tenant has its turn
        waiter, _ = found.waiters.popitem(last=False)
        self._turns.charge(found, 1)
        self._drop_if_empty(found)
        return waiter

    def discard(self, tenant: TenantId | None, waiter: W) -> None:
        """Remove a waiter, if it is there."""
        found = self._tenants.get(tenant)
        if waiter in self._first:
            del self._first[waiter]
            self._size -= 1
        elif found is not None and waiter in found.waiters:
            del found.waiters[waiter]
            self._size -= 1
            self._drop_if_empty(found)

    def _drop_if_empty(self, found: _TenantWaiters[W]) -> None:
        if not found.waiters:
            self._turns.leave(found)
            del self._tenants[found.tenant]
            self._note_end(found)

    def _note_end(self, found: _TenantWaiters[W]) -> None:
        """Remember where the last turn of a tenant that leaves ends, until the clock is there."""
        clock = self._turns.clock
        if found.start > clock:
            self._ends[found.tenant] = found.start
        if len(self._ends) > self._most_ends:
            self._ends = {tenant: end for tenant, end in self._ends.items() if end > clock}
            self._most_ends = max(MOST_ENDS, 2 * len(self._ends))
