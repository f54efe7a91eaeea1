"""Chooses the chat template that a request's messages are written with.

The template of an adapter is used where a request's ``model`` names that adapter alone. Mixtures,
routers and the base have the base's.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from cluster.adapters.format.chat_template import (
    TEMPLATE_FILE,
    TOKENIZER_FILE,
    digest_of,
    read_chat_template,
)
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import AdapterLoadFailed, ModelNotFound
from deployments.adapter_follower import AdapterFollower
from deployments.directory import TenantAdapters
from router_service.request_decision import RequestDecision
from router_service.routing_request import AdapterRequest, RoutingRequest

MAX_KEPT = 64
"""Templates in memory, of 256 KiB at most."""


@dataclass(frozen=True, slots=True)
class ChosenTemplate:
    """Says what a conversation is written with."""

    alone: bool = False  # an adapter alone is asked
    digest: AdapterDigest | None = None  # of that adapter; None: not known here yet
    text: str | None = None  # its own template; None: the base's

    def is_for(self, decided: RequestDecision) -> bool:
        """Return whether the decision is for the adapter that the template was chosen for."""
        return not self.alone or self.digest == adapter_of(decided)


class AdapterTemplates:
    """Finds templates next to adapters' weights and keeps those used last.

    Args:
        adapters: knows where the files are.
        directory: what a tenant's names mean.
    """

    def __init__(self, adapters: AdapterFollower, directory: TenantAdapters) -> None:
        self._adapters = adapters
        self._directory = directory
        self._kept: OrderedDict[str, str] = OrderedDict()  # template's sha256 -> template

    async def choose(self, tenant: TenantId, request: RoutingRequest) -> ChosenTemplate:
        """Choose the template for a request, as the adapter's alias is known now.

        Raises:
            AdapterLoadFailed: the adapter's files are not what was registered.
        """
        if not isinstance(request, AdapterRequest):
            return ChosenTemplate()
        try:
            digest = self._directory.resolve(tenant, request.alias).digest
        except ModelNotFound:  # the caller looks again as it decides
            return ChosenTemplate(alone=True)
        return await self.of_adapter(digest)

    async def of_adapter(self, digest: AdapterDigest) -> ChosenTemplate:
        """Return the template of one adapter.

        Raises:
            AdapterLoadFailed: as ``choose``.
        """
        version = self._adapters.view.versions.get(digest)
        wanted = None if version is None else version.manifest.chat_template
        if wanted is None:
            return ChosenTemplate(True, digest)
        text = self._kept.get(wanted)
        if text is None:
            text = await asyncio.to_thread(self._read, digest, wanted)
        self._kept[wanted] = text
        self._kept.move_to_end(wanted)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return ChosenTemplate(True, digest, text)

    def _read(self, digest: AdapterDigest, wanted: str) -> str:
        entry = self._adapters.by_digest(digest)
        template, tokenizer = (Path(entry.path) / name for name in (TEMPLATE_FILE, TOKENIZER_FILE))
        found = read_chat_template(
            template if template.exists() else None, tokenizer if tokenizer.exists() else None
        )
        if found is None or digest_of(found) != wanted:
            raise AdapterLoadFailed(
                f"adapter {entry.key.alias}: its chat template has changed since it was registered"
            )
        return found


def adapter_of(decided: RequestDecision) -> AdapterDigest | None:
    """Return the one adapter of a decision, or None if there is another number of them."""
    mixture = decided.decision.mixture
    return mixture[0].key.digest if len(mixture) == 1 else None
