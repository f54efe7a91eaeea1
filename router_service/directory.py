"""What routing needs to know about adapters."""

from collections.abc import Mapping
from typing import Protocol

from cluster.domain.adapter import AdapterKey
from cluster.domain.ids import AdapterDigest, TenantId


class AdapterDirectory(Protocol):
    """Aliases as a tenant sees them."""

    def resolve(self, tenant: TenantId, alias: str) -> AdapterKey:
        """The version behind an alias.

        Raises:
            ModelNotFound: unknown, or not this tenant's to use.
        """
        ...

    def visible(self, tenant: TenantId) -> Mapping[str, AdapterKey]:
        """Every alias that the tenant may use."""
        ...

    def earlier(self, tenant: TenantId, alias: str, digest: AdapterDigest) -> AdapterKey | None:
        """A version that an alias of the tenant's pointed to before and that can be served
        still; None where there is none such."""
        ...
