"""Words decisions as people read them."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.domain.adapter import WeightedAdapter
from cluster.domain.decision import DecisionSource, Granularity, RoutingDecision, SiteWeights
from cluster.domain.replica import PickCandidate, PickExplanation
from cluster.errors import DecisionNotFound, StoreUnavailable
from deployments.front.requests.running import Running
from deployments.front.sequences.rerouting import SentenceDecision
from deployments.front.telemetry.request_log import milliseconds
from router_service.service import RoutingService


async def explain_answers(running: Running, routing: RoutingService) -> None:
    """Attach to each answer how its mixture came about.

    Weights computed during prefill are read from the store, and omitted if they are not there.
    """
    if not running.choices[0].answer.decision:
        decision = running.decided.decision
        if decision.granularity is Granularity.PROMPT and decision.site_weights is None:
            with contextlib.suppress(DecisionNotFound, StoreUnavailable):
                decision = await routing.get(running.tenant.id, decision.id)
        body = decision_body(decision, running.decided.source, None, explain=True)
        for answer in running.answers:
            answer.decision = {"router": decision.router, **body["explain"]}
    for choice in running.choices:
        if choice.picked is not None and choice.picked.explanation is not None:
            pick = pick_body(choice.picked.explanation)
            choice.answer.decision = {**choice.answer.decision, "pick": pick}
        if choice.rerouting is not None:
            sentences = sentences_body(choice.rerouting.sentences)
            choice.answer.decision = {**choice.answer.decision, "sentences": sentences}


def pick_body(pick: PickExplanation) -> dict[str, Any]:
    """Describe a pick: the candidates with their costs in milliseconds, the chosen one first."""
    return {
        "replica": pick.chosen,
        "decided_by": pick.decided_by if pick.chosen is not None else None,
        "replicas": pick.replicas,
        "candidates": [_candidate_body(candidate) for candidate in pick.candidates],
    }


def _candidate_body(candidate: PickCandidate) -> dict[str, Any]:
    body: dict[str, Any] = {
        "replica": candidate.replica_id,
        "load": candidate.load,
        "age_s": round(candidate.age, 3),
    }
    if candidate.refused_by is not None:
        body["refused_by"] = candidate.refused_by
    if candidate.cost is not None:
        body["cost_ms"] = milliseconds(candidate.cost)
        body |= {f"{name}_ms": milliseconds(seconds) for name, seconds in candidate.terms}
    return body


def decision_body(
    decision: RoutingDecision,
    source: DecisionSource,
    store: str | None,
    *,
    explain: bool = False,
) -> dict[str, Any]:
    """Describe a decision for ``POST /v1/route`` and ``GET /v1/decisions/{id}``.

    With ``explain`` it says how the mixture came about, in one place and ready to be drawn.
    """
    body: dict[str, Any] = {
        "id": decision.id,
        "object": "routing.decision",
        "source": source.value,
        "router": decision.router,
        "router_version": decision.router_version,
        "granularity": decision.granularity.value,
        "mixture": mixture_body(decision.mixture),
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
    if explain:
        weights = {term.key.alias: term.weight for term in decision.mixture}
        body["explain"] = explanation(body["scores"], weights, decision.site_weights)
    return body


def mixture_body(mixture: Sequence[WeightedAdapter]) -> list[dict[str, Any]]:
    """List the terms of a mixture, the heaviest first."""
    return [
        {"name": term.key.alias, "weight": term.weight, "digest": term.key.digest}
        for term in sorted(mixture, key=lambda term: -abs(term.weight))
    ]


def sentences_body(sentences: Sequence[SentenceDecision]) -> list[dict[str, Any]]:
    """Describe the decision of each sentence of an answer; the first is the prompt's.

    ``tokens`` were generated when it had begun, ``start`` before its adapters were applied.
    """
    bodies = []
    for sentence in sentences:
        body: dict[str, Any] = {
            "tokens": sentence.seen,
            "state": sentence.state.value,
            "start": sentence.start,
        }
        if sentence.decided is not None:
            body["decision"] = sentence.decided.decision.id
            body["source"] = sentence.decided.source.value
            body["mixture"] = mixture_body(sentence.decided.decision.mixture)
        if sentence.reason:
            body["reason"] = sentence.reason
        bodies.append(body)
    return bodies


def explanation(
    scores: Sequence[Mapping[str, Any]],
    weights: Mapping[str, float],
    sites: SiteWeights | None = None,
) -> dict[str, Any]:
    """Explain how a mixture came about: candidates with weights; weights by layer and module.

    Args:
        scores: of the candidates, as in the answer's ``scores``.
        weights: of the mixture, by alias.
        sites: of the mixture's only adapter, where modules are weighed.
    """
    explained: dict[str, Any] = {
        "candidates": [{**score, "weight": weights.get(score["name"], 0.0)} for score in scores]
    }
    if sites is not None and len(sites.weights) == 1:
        explained["layers"] = _by_layer(sites)
    return explained


def _by_layer(sites: SiteWeights) -> dict[str, Any]:
    """Arrange sites like ``model.layers.3.mlp.up_proj`` as [layers][modules]; absent ones are 0."""
    placed: dict[tuple[int, str], float] = {}
    for site, weight in zip(sites.sites, sites.weights[0], strict=True):
        parts = site.split(".")
        layer = next((int(part) for part in parts if part.isdecimal()), 0)
        placed[layer, parts[-1]] = weight
    columns = list(dict.fromkeys(module for _, module in placed))
    layers = range(max(layer for layer, _ in placed) + 1)
    return {
        "columns": columns,
        "weights": [[placed.get((layer, c), 0.0) for c in columns] for layer in layers],
    }


def adapters_header(mixture: Sequence[WeightedAdapter]) -> str:
    """Write the exact versions of an answer: ``alias@digest;w=weight``, comma-separated.

    Returns an empty text if the base answers alone.
    """
    return ", ".join(f"{term.key.alias}@{term.key.digest};w={term.weight:.6g}" for term in mixture)
