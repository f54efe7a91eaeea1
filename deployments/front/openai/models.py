"""What ``GET /v1/models`` lists: the base, the tenant's adapters, and the routers."""

from typing import Any

from cluster.domain.adapter import AdapterEntry
from cluster.domain.model_names import AUTO
from cluster.tenancy.tenants import Tenant
from deployments.front.front_context import FrontContext


def model_cards(context: FrontContext, tenant: Tenant) -> list[dict[str, Any]]:
    """Cards of everything the tenant may put into ``model``."""
    cards = [_card(context, context.names.model_id, context.names.model_id, None)]
    entries = context.directory.entries(tenant.id)
    cards.extend(_adapter_card(context, entry) for entry in entries.values())
    if context.router_names:
        cards.append(_card(context, AUTO, AUTO, context.names.model_id))
    cards.extend(
        _card(context, f"{AUTO}:{name}", name, context.names.model_id)
        for name in context.router_names
    )
    return cards


def model_card(context: FrontContext, tenant: Tenant, name: str) -> dict[str, Any] | None:
    """The card of one name, or None where the tenant has no such model."""
    if context.names.is_base(name):
        name = context.names.model_id
    wanted = context.names.adapter_of(name)
    return next((card for card in model_cards(context, tenant) if card["id"] == wanted), None)


def _card(context: FrontContext, name: str, root: str, parent: str | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": context.started_at,
        "owned_by": "braid",
        "root": root,
        "parent": parent,
        "max_model_len": context.service.max_model_len,
    }


def _adapter_card(context: FrontContext, entry: AdapterEntry) -> dict[str, Any]:
    """``root`` is the version's digest: paths on the server are nobody's business."""
    card = _card(context, entry.key.alias, entry.key.digest, context.names.model_id)
    card["owned_by"] = entry.key.owner
    card["description"] = entry.manifest.description
    card["rank"] = entry.manifest.rank
    return card
