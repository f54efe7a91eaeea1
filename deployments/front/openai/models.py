"""Words what ``GET /v1/models`` lists: the base, the tenant's adapters, and the routers."""

from typing import Any

from cluster.domain.adapter import AdapterEntry
from cluster.domain.model_names import AUTO
from cluster.tenancy.tenants import Tenant
from deployments.directory import TenantAdapters
from deployments.front.requests.request_service import RequestService


class ModelCards:
    """Describes everything that a tenant may put into ``model``.

    Args:
        service: knows the base's names, the routers and the longest sequence.
        directory: knows the tenants' adapters.
        started_at: seconds since the epoch.
    """

    def __init__(self, service: RequestService, directory: TenantAdapters, started_at: int) -> None:
        self._service = service
        self._directory = directory
        self._started_at = started_at

    def of_tenant(self, tenant: Tenant) -> list[dict[str, Any]]:
        """Return the cards of all models of a tenant."""
        base = self._service.names.model_id
        routers = self._service.routing.router_names
        cards = [self._card(base, base, None)]
        entries = self._directory.entries(tenant.id)
        cards.extend(self._adapter_card(entry) for entry in entries.values())
        if routers:
            cards.append(self._card(AUTO, AUTO, base))
        cards.extend(self._card(f"{AUTO}:{name}", name, base) for name in routers)
        return cards

    def find(self, tenant: Tenant, name: str) -> dict[str, Any] | None:
        """Return the card of one name, or None if the tenant has no such model."""
        names = self._service.names
        asked = names.adapter_of(names.model_id if names.is_base(name) else name)
        return next((card for card in self.of_tenant(tenant) if card["id"] == asked), None)

    def _card(self, name: str, root: str, parent: str | None) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._started_at,
            "owned_by": "braid",
            "root": root,
            "parent": parent,
            "max_model_len": self._service.max_model_len,
        }

    def _adapter_card(self, entry: AdapterEntry) -> dict[str, Any]:
        """Describe an adapter; ``root`` is its digest, not its path on the server."""
        card = self._card(entry.key.alias, entry.key.digest, self._service.names.model_id)
        card["owned_by"] = entry.key.owner
        card["description"] = entry.manifest.description
        card["rank"] = entry.manifest.rank
        return card
