"""Adapters as tenants see them: the registry, through the tenants' rights."""

from collections.abc import Callable, Mapping
from typing import Protocol

from cluster.adapters.registry.registry_view import RegistryView
from cluster.domain.adapter import AdapterEntry, AdapterKey
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.tenancy.tenants import Tenant


class TenantsById(Protocol):
    """Knows every tenant that may have a request running."""

    def tenant(self, tenant: TenantId) -> Tenant: ...


class TenantAdapters:
    """Implements routing's ``AdapterDirectory``, always by the present view.

    Args:
        view: gives the registry as it is known now.
        tenants: gives each tenant with the rights that it has now.
    """

    def __init__(self, view: Callable[[], RegistryView], tenants: TenantsById) -> None:
        self._view = view
        self._tenants = tenants

    def entry(self, tenant: TenantId, alias: str) -> AdapterEntry:
        """Return the entry of an alias.

        Raises:
            ModelNotFound: unknown, or not this tenant's to use.
        """
        view = self._view()
        return view.entry(view.resolve(tenant, alias, self._tenants.tenant(tenant)))

    def resolve(self, tenant: TenantId, alias: str) -> AdapterKey:
        """Return the version behind an alias.

        Raises:
            ModelNotFound: unknown, or not this tenant's to use.
        """
        name = self._view().resolve(tenant, alias, self._tenants.tenant(tenant))
        return AdapterKey(name.owner, name.alias, name.digest)

    def visible(self, tenant: TenantId) -> Mapping[str, AdapterKey]:
        """Return every alias that the tenant may use."""
        names = self._view().visible(tenant, self._tenants.tenant(tenant))
        return {
            alias: AdapterKey(name.owner, name.alias, name.digest) for alias, name in names.items()
        }

    def earlier(self, tenant: TenantId, alias: str, digest: AdapterDigest) -> AdapterKey | None:
        """Return a version in an alias's history whose files are still there, or None."""
        view = self._view()
        name = view.find(tenant, alias, self._tenants.tenant(tenant))
        if name is None or all(step.digest != digest for step in name.history):
            return None
        return AdapterKey(name.owner, alias, digest) if view.is_at_hand(digest) else None

    def entries(self, tenant: TenantId) -> Mapping[str, AdapterEntry]:
        """Return every adapter that the tenant may use, by alias."""
        view = self._view()
        names = view.visible(tenant, self._tenants.tenant(tenant))
        return {alias: view.entry(name) for alias, name in names.items()}
