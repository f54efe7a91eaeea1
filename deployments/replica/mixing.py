"""Translates decisions for the engine: adapters in order, and how they are weighed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cluster.adapters.activation import active_from, stretches
from cluster.domain.decision import RoutingDecision, SiteWeights, kv_namespace
from cluster.domain.ids import Slot
from cluster.engine.mixing import Mixing
from cluster.engine.mixing_parts import MixingParts
from cluster.engine.spans import Span
from cluster.errors import RequestError, RouterOutdated
from router_service.routers.kind import EnginePart


class DecisionMixing:
    """The parts of routers that run inside this replica's engine, by version of the router.

    Parts come and go on the event loop, while the engine runs.
    """

    def __init__(
        self, parts: Mapping[str, EnginePart], base_digest: str, *, isolate_tenants: bool
    ) -> None:
        self._parts: dict[str, EnginePart] = {}
        self._engine_parts = MixingParts()
        self._base_digest = base_digest
        self._isolate_tenants = isolate_tenants
        for version, part in parts.items():
            self.add(version, part)

    @property
    def versions(self) -> frozenset[str]:
        """Return the versions of the routers that can be served here."""
        return frozenset(self._parts)

    def engine_parts(self) -> MixingParts:
        """Return the parts to build the engine with, by version; later changes reach it."""
        return self._engine_parts

    def add(self, version: str, part: EnginePart) -> None:
        """Serve a router of this version from now on."""
        self._engine_parts.add_part(version, gate=part.gate, router=part.router)
        self._parts[version] = part

    def remove(self, version: str) -> None:
        """Stop serving it; no live request may have been decided by it."""
        self._parts.pop(version, None)
        self._engine_parts.remove_part(version)

    def lacks(self, decision: RoutingDecision) -> bool:
        """Report whether a decision needs a part that is not here."""
        return decision.is_fused and decision.router_version not in self._parts

    def namespace(self, decision: RoutingDecision) -> str:
        """Return the KV namespace of a decision as it stands."""
        return kv_namespace(self._base_digest, decision, isolate_tenant=self._isolate_tenants)

    def plan(
        self, decision: RoutingDecision, slots: Sequence[Slot]
    ) -> tuple[tuple[tuple[Slot, float], ...], Mixing | None]:
        """Return the adapters' (slot, weight) in the order the engine needs, and their mixing.

        Args:
            decision: of the request.
            slots: of its mixture, in the mixture's order.

        Raises:
            RouterOutdated: a router of a version that this replica does not have, or of other
                versions than the decision names.
        """
        terms = list(zip(decision.digests, slots, decision.mixture, strict=True))
        weighted = tuple((slot, term.weight) for _, slot, term in terms)
        if not decision.is_fused:
            return weighted, None
        part = self._parts.get(decision.router_version)
        if part is None:
            raise RouterOutdated(
                f"router {decision.router!r} of version {decision.router_version[:12]} is not "
                "served any more",
                param="model",
            )
        places = {str(digest): (slot, term.weight) for digest, slot, term in terms}
        if places.keys() != set(part.digests):
            decided = ", ".join(f"{t.key.alias}@{digest[:12]}" for digest, _, t in terms)
            made_for = ", ".join(digest[:12] for digest in part.digests)
            raise RouterOutdated(
                f"router {decision.router!r} was made for versions {made_for} of its adapters, "
                f"not for {decided}; build it again for those that are served now",
                param="model",
            )
        ordered = tuple(places[digest] for digest in part.digests)
        if part.gate is not None:
            return ordered, Mixing(gate=decision.router_version)

        def completed(weights: SiteWeights) -> str:
            return self.namespace(replace(decision, site_weights=weights))

        return ordered, Mixing(
            router=decision.router_version,
            site_weights=decision.site_weights,
            complete=completed,
        )

    def spans(
        self,
        decision: RoutingDecision,
        slots: Sequence[Slot],
        prompt: Sequence[int],
        invocations: Sequence[Sequence[int]],
    ) -> tuple[tuple[Span, ...], Mixing | None]:
        """Return a prompt's spans under a decision, the first at 0, and their mixing.

        A span whose adapters are fewer than the decision's has the namespace of a decision on
        these alone. So what comes before an invocation is shared with requests for the base.

        Args:
            decision: of the request.
            slots: of its mixture, in the mixture's order.
            prompt: token ids.
            invocations: the tokens that invoke each adapter, likewise; none for an ordinary one.

        Raises:
            RouterOutdated: as ``plan``.
            RequestError: an activated LoRA whose weights are decided inside the engine.
        """
        activated = [
            repr(term.key.alias)
            for term, invocation in zip(decision.mixture, invocations, strict=True)
            if invocation
        ]
        if not activated:
            adapters, mixing = self.plan(decision, slots)
            return (Span(0, self.namespace(decision), adapters),), mixing
        if decision.is_fused:
            raise RequestError(
                f"router {decision.router!r} weighs {', '.join(activated)} inside the model, where "
                "an activated LoRA (alora_invocation_tokens) cannot be weighed; name the adapter "
                "itself or use a router that reads the text",
                param="model",
            )
        starts = [active_from(prompt, invocation) for invocation in invocations]
        found = []
        for start, places in stretches(starts):
            part = replace(decision, mixture=tuple(decision.mixture[i] for i in places))
            adapters, _ = self.plan(part, [slots[i] for i in places])
            found.append(Span(start, self.namespace(part), adapters))
        return tuple(found), None
