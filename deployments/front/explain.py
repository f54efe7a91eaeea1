"""A decision as people read it."""

from typing import Any

from cluster.domain.decision import DecisionSource, RoutingDecision


def decision_body(
    decision: RoutingDecision, source: DecisionSource, store: str | None
) -> dict[str, Any]:
    """The answer of ``POST /v1/route`` and ``GET /v1/decisions/{id}``."""
    body: dict[str, Any] = {
        "id": decision.id,
        "object": "routing.decision",
        "source": source.value,
        "router": decision.router,
        "router_version": decision.router_version,
        "granularity": decision.granularity.value,
        "mixture": [
            {"name": term.key.alias, "weight": term.weight, "digest": term.key.digest}
            for term in sorted(decision.mixture, key=lambda term: -abs(term.weight))
        ],
        "scores": [
            {
                "name": score.alias or "(base)",
                "probability": score.probability,
                "kept": score.kept,
            }
            for score in sorted(decision.scores, key=lambda score: -score.probability)
        ],
        "created_at": decision.created_at,
        "expires_at": decision.expires_at,
    }
    if store is not None:
        body["store"] = store
    return body
