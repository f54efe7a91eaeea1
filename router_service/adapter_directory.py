"""Adapters as routing sees them."""

from collections.abc import Mapping
from typing import Protocol

from cluster.domain.adapter import AdapterKey
from cluster.domain.ids import AdapterDigest, TenantId


class AdapterDirectory(Protocol):
    """Aliases as a tenant sees them."""

    def resolve(self, tenant: TenantId, alias: str) -> AdapterKey:
        """Find the version behind an alias.

        Raises:
            ModelNotFound: unknown, or not this tenant's to use.
        """
        ...

    def visible(self, tenant: TenantId) -> Mapping[str, AdapterKey]:
        """List every alias that the tenant may use."""
        ...

    def earlier(self, tenant: TenantId, alias: str, digest: AdapterDigest) -> AdapterKey | None:
        """Find a version that one of the tenant's aliases pointed to before.

        Returns None if no such version can be served.
        """
        ...
