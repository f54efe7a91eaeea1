"""Averages how many tokens requests generate, by tenant."""

from collections import OrderedDict

from cluster.domain.ids import TenantId

FIRST_MEAN_TOKENS = 64.0
"""Tokens that a request generates, before any was seen."""
MOST_TENANTS = 4096
_WEIGHT = 1 / 64  # of the newest request


class MeanTokens:
    """Moving averages, so that no tenant's answers change what another's requests are to cost.

    A new tenant begins with the mean of all. The least recently seen is forgotten first.

    Args:
        most: tenants that are remembered.
    """

    def __init__(self, most: int = MOST_TENANTS) -> None:
        self._most = most
        self._of_all = FIRST_MEAN_TOKENS
        self._of: OrderedDict[TenantId | None, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._of)

    def of(self, tenant: TenantId | None) -> float:
        """Return the tokens that a tenant's request generates on average."""
        return self._of.get(tenant, self._of_all)

    def observe(self, tenant: TenantId | None, tokens: float) -> None:
        """Take in what a request of a tenant generates."""
        mean = self._of.pop(tenant, self._of_all)
        self._of[tenant] = mean + _WEIGHT * (tokens - mean)
        self._of_all += _WEIGHT * (tokens - self._of_all)
        if len(self._of) > self._most:
            self._of.popitem(last=False)
