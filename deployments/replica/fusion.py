"""From a decision to what the engine is told: adapters in order, and how they are weighed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cluster.config import AppConfig
from cluster.domain.adapter import AdapterEntry
from cluster.domain.decision import Granularity, RoutingDecision, SiteWeights, kv_namespace
from cluster.domain.ids import Slot
from cluster.engine.fusion import FusionParts
from cluster.engine.fusion_spec import Fusion
from cluster.engine.model_source import ModelLocation
from cluster.errors import DecisionRejected
from deployments.live_routers import build_parts
from router_service.routers.kind import EnginePart


class DecisionFusion:
    """What of the routers runs inside this replica's engine, by the version of the router."""

    def __init__(
        self, parts: Mapping[str, EnginePart], base_digest: str, *, isolate_tenants: bool
    ) -> None:
        self._parts = dict(parts)
        self._base_digest = base_digest
        self._isolate_tenants = isolate_tenants

    def engine_parts(self) -> FusionParts:
        """What the engine is built with; its names are the versions."""
        return FusionParts(
            {name: part.gate for name, part in self._parts.items() if part.gate is not None},
            {name: part.router for name, part in self._parts.items() if part.router is not None},
        )

    def namespace(self, decision: RoutingDecision) -> str:
        """The KV namespace of a decision as it stands."""
        return kv_namespace(self._base_digest, decision, isolate_tenant=self._isolate_tenants)

    def plan(
        self, decision: RoutingDecision, slots: Sequence[Slot]
    ) -> tuple[tuple[tuple[Slot, float], ...], Fusion | None]:
        """(slot, weight) of the adapters in the order the engine needs, and their fusion.

        Args:
            decision: of the request.
            slots: of its mixture, in the mixture's order.

        Raises:
            DecisionRejected: a router of a version that this replica does not have, or of other
                adapters than the decision names.
        """
        terms = list(zip(decision.digests, slots, decision.mixture, strict=True))
        weighted = tuple((slot, term.weight) for _, slot, term in terms)
        if decision.granularity not in (Granularity.TOKEN, Granularity.PROMPT) or not terms:
            return weighted, None
        part = self._parts.get(decision.router_version)
        if part is None:
            raise DecisionRejected(
                f"router {decision.router!r} of version {decision.router_version[:12]} is not "
                "loaded on this replica"
            )
        places = {str(digest): (slot, term.weight) for digest, slot, term in terms}
        if places.keys() != set(part.digests):
            raise DecisionRejected(
                f"router {decision.router!r} weighs other generations of its adapters than the "
                "ones decided on; make it anew for those that are served now"
            )
        ordered = tuple(places[digest] for digest in part.digests)
        if part.gate is not None:
            return ordered, Fusion(gate=decision.router_version)

        def completed(weights: SiteWeights) -> str:
            return self.namespace(replace(decision, site_weights=weights))

        return ordered, Fusion(
            router=decision.router_version,
            site_weights=decision.site_weights,
            complete=completed,
        )


def load_fusion(
    config: AppConfig, adapters: Mapping[str, AdapterEntry], base: ModelLocation
) -> DecisionFusion:
    """Read the artifacts of the routers that decide inside the engine; ``adapters`` by alias.

    Raises:
        ConfigError: one cannot be used with this base.
    """
    parts = build_parts(config, adapters, base)
    return DecisionFusion(parts, base.digest, isolate_tenants=config.tenant_isolation)
