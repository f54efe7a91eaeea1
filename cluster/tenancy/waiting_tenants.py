"""Counts requests that wait, by tenant."""

from collections import Counter
from collections.abc import Iterable

from cluster.domain.ids import TenantId
from cluster.errors import IntegrityError
from cluster.tenancy.shares import has_share


class WaitingTenants:
    """Counts the requests that wait in one place.

    Args:
        most: requests that may wait at once; beyond it only tenants are let in that have less
            than their share of them.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._waiting: Counter[TenantId] = Counter()
        self._weights: dict[TenantId, float] = {}  # of those with requests that wait

    @property
    def total(self) -> int:
        """Return the number of requests that wait."""
        return self._waiting.total()

    def of(self, tenant: TenantId) -> int:
        """Return the number of a tenant's requests that wait."""
        return self._waiting[tenant]

    def is_full_for(self, tenant: TenantId, weight: float) -> bool:
        """Report whether one more request of a tenant of this weight must be refused."""
        if self._waiting.total() < self.most:
            return False
        weights = self._weights | {tenant: weight}
        return has_share(self._waiting[tenant], self.most, tenant, weights)

    def add(self, tenant: TenantId, weight: float) -> None:
        """Count one more request; ``weight`` is its tenant's from now on."""
        self._waiting[tenant] += 1
        self._weights[tenant] = weight

    def remove(self, tenant: TenantId) -> None:
        """Count one request less."""
        self._waiting[tenant] -= 1
        if not self._waiting[tenant]:
            del self._waiting[tenant], self._weights[tenant]

    def check_integrity(self, tenants: Iterable[TenantId]) -> None:
        """Compare the counts with the tenants of all requests that wait, each as often as it has.

        Raises:
            IntegrityError: with both numbers.
        """
        waiting = Counter(tenants)
        if waiting != self._waiting:
            raise IntegrityError(
                f"{self._waiting.total()} requests are counted as waiting, "
                f"expected {waiting.total()}"
            )
