"""Gathers what a front knows of a sequence that its pick depends on."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.domain.decision import Granularity, RoutingDecision
from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.placement.picking.filters import PickRequest
from cluster.placement.picking.prefix_affinity import prefix_keys


@dataclass(frozen=True, slots=True)
class PickHints:
    """Facts about one sequence, known before it is first sent."""

    expected_tokens: int = 64  # that it will probably generate
    prefix: tuple[int, ...] = ()  # keys of its prompt's beginnings
    explain: bool = False  # keep how its replica was picked
    gates: bool = False  # its adapters are weighed inside the model

    @staticmethod
    def of(
        decision: RoutingDecision,
        tenant: TenantId,
        prompt: Sequence[int],
        expected_tokens: int,
        *,
        explain: bool,
    ) -> "PickHints":
        """Return the hints for a sequence with this decision and prompt, in token ids."""
        namespace = prefix_namespace(tenant, decision)
        prefix = () if namespace is None else prefix_keys(namespace, prompt)
        return PickHints(expected_tokens, prefix, explain, decision.is_fused)

    def pick_request(
        self,
        tenant: TenantId,
        digests: tuple[AdapterDigest, ...],
        *,
        prompt: int,
        generated: int,
        excluded: tuple[ReplicaId, ...],
    ) -> PickRequest:
        """Return what to pick by.

        Args:
            prompt: tokens of the prompt.
            generated: tokens generated before its replica was lost, to be computed again.
            excluded: replicas that failed it.
        """
        return PickRequest(
            digests,
            tenant,
            exclude=excluded,
            prompt_tokens=prompt + generated,
            expected_tokens=max(1, self.expected_tokens - generated),
            prefix=self.prefix,
            explain=self.explain,
            gates=self.gates,
        )


def prefix_namespace(tenant: TenantId, decision: RoutingDecision) -> int | None:
    """Return one number for decisions that compute equal KV blocks; None if no other does.

    It means something within this process alone. Tenants are kept apart whether or not replicas do
    so: a tenant's prompts begin alike far more often than those of two.
    """
    if decision.granularity is Granularity.PROMPT:
        return None
    finer = decision.granularity is Granularity.TOKEN or decision.site_weights is not None
    router = (decision.router, decision.router_version) if finer else None
    mixture = tuple((term.key.digest, term.weight) for term in decision.mixture)
    return hash((tenant, mixture, router))
