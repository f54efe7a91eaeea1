"""Adapters as tenants see them: the catalog, through the tenants' rights."""

from collections.abc import Mapping

from cluster.adapters.catalog import AdapterCatalog
from cluster.domain.adapter import AdapterEntry, AdapterKey, AdapterRef
from cluster.domain.ids import TenantId
from cluster.tenancy.tenants import TenantDirectory


class TenantAdapters:
    """Implements routing's ``AdapterDirectory``."""

    def __init__(self, catalog: AdapterCatalog, tenants: TenantDirectory) -> None:
        self._catalog = catalog
        self._tenants = {tenant.id: tenant for tenant in tenants.tenants}

    def entry(self, tenant: TenantId, alias: str) -> AdapterEntry:
        """The catalog's line for an alias.

        Raises:
            ModelNotFound: unknown, or not this tenant's to use.
        """
        return self._catalog.resolve(AdapterRef(tenant, alias), self._tenants[tenant])

    def resolve(self, tenant: TenantId, alias: str) -> AdapterKey:
        """The generation behind an alias.

        Raises:
            ModelNotFound: unknown, or not this tenant's to use.
        """
        return self.entry(tenant, alias).key

    def visible(self, tenant: TenantId) -> Mapping[str, AdapterKey]:
        """Every alias that the tenant may use."""
        entries = self._catalog.visible(self._tenants[tenant])
        return {entry.key.alias: entry.key for entry in entries}
