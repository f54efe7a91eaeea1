"""Makes decisions: names them after what they depend on, dates and signs them."""

from cluster.clock import Clock
from cluster.domain.adapter import WeightedAdapter
from cluster.domain.decision import CandidateScore, DecisionSource, Granularity, RoutingDecision
from cluster.domain.ids import TenantId
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.decision_store import StoredDecision
from router_service.decision_store.keys import decision_id


class DecisionSigner:
    """Signs decisions that are valid for ``ttl_s`` seconds from now."""

    def __init__(self, codec: DecisionCodec, clock: Clock, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self._codec = codec
        self._clock = clock

    def prompt_digest(self, tenant: TenantId, text: str) -> str:
        """Return the keyed digest (hex) of what a router reads."""
        return self._codec.prompt_digest(tenant, text)

    def seconds_left(self, decision: RoutingDecision) -> float:
        """Return the seconds until a decision expires; negative after that."""
        return decision.expires_at - self._clock.wall()

    def sign_again(self, decision: RoutingDecision) -> StoredDecision:
        """Sign a changed decision under its own id and times."""
        return self._codec.sign(decision)

    def sign(
        self,
        *,
        tenant: TenantId,
        router: str,
        version: str,
        granularity: Granularity,
        mixture: tuple[WeightedAdapter, ...],
        source: DecisionSource,
        candidates_digest: str,
        prompt_digest: str,
        scores: tuple[CandidateScore, ...],
    ) -> StoredDecision:
        """Make and sign a new decision."""
        now = self._clock.wall()
        return self._codec.sign(
            RoutingDecision(
                id=decision_id(tenant, router, version, candidates_digest, prompt_digest),
                tenant=tenant,
                router=router,
                router_version=version,
                granularity=granularity,
                mixture=mixture,
                source=source,
                candidates_digest=candidates_digest,
                prompt_digest=prompt_digest,
                created_at=now,
                expires_at=now + self.ttl_s,
                scores=scores,
            )
        )
