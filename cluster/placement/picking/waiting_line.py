"""Orders those who wait: tenants take turns, and within a tenant the oldest is first."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from cluster.domain.ids import TenantId

W = TypeVar("W", bound=Hashable)


class WaitingLine(Generic[W]):
    """Holds waiters by tenant. Each call costs the same, however many wait."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[TenantId | None, OrderedDict[W, None]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, tenant: TenantId | None, waiter: W) -> None:
        """Add a waiter behind those of its tenant; a tenant that is new has its turn last."""
        waiters = self._tenants.setdefault(tenant, OrderedDict())
        self._size += waiter not in waiters
        waiters[waiter] = None

    def put_back(self, tenant: TenantId | None, waiter: W) -> None:
        """Add a waiter before all others, for one whose turn it was."""
        self.append(tenant, waiter)
        self._tenants[tenant].move_to_end(waiter, last=False)
        self._tenants.move_to_end(tenant, last=False)

    def pop(self) -> W:
        """Take the waiter whose turn it is; its tenant has the last turn from now on.

        Raises:
            LookupError: no one waits.
        """
        if not self._size:
            raise LookupError("no one waits")
        tenant, waiters = next(iter(self._tenants.items()))
        waiter, _ = waiters.popitem(last=False)
        self._size -= 1
        if waiters:
            self._tenants.move_to_end(tenant)
        else:
            del self._tenants[tenant]
        return waiter

    def discard(self, tenant: TenantId | None, waiter: W) -> None:
        """Remove a waiter, if it is there."""
        waiters = self._tenants.get(tenant)
        if waiters is None or waiter not in waiters:
            return
        del waiters[waiter]
        self._size -= 1
        if not waiters:
            del self._tenants[tenant]
