"""Checks what a decision says of itself."""

import dataclasses

from cluster.domain.adapter import AdapterKey, WeightedAdapter
from cluster.domain.decision import (
    CandidateScore,
    DecisionSource,
    Granularity,
    RoutingDecision,
    SiteWeights,
)
from cluster.domain.ids import AdapterDigest, DecisionId, TenantId
from deployments.front.requests.explain import decision_body

DECISION = RoutingDecision(
    id=DecisionId("dec_1"),
    tenant=TenantId("acme"),
    router="dlp",
    router_version="v",
    granularity=Granularity.REQUEST,
    mixture=(WeightedAdapter(AdapterKey(TenantId("shared"), "sql", AdapterDigest("d")), 0.5622),),
    source=DecisionSource.COMPUTED,
    candidates_digest="c",
    prompt_digest="p",
    created_at=1.0,
    expires_at=2.0,
    scores=(
        CandidateScore("", 0.3, kept=True),
        CandidateScore("sql", 0.55, kept=True),
        CandidateScore("cron", 0.15, kept=False),
    ),
)


def test_an_explanation_has_probability_kept_and_weight_of_every_candidate() -> None:
    body = decision_body(DECISION, DecisionSource.STORED, "hit", explain=True)
    assert body["explain"] == {
        "candidates": [
            {"name": "sql", "probability": 0.55, "kept": True, "weight": 0.5622},
            {"name": "(base)", "probability": 0.3, "kept": True, "weight": 0.0},
            {"name": "cron", "probability": 0.15, "kept": False, "weight": 0.0},
        ]
    }
    assert "explain" not in decision_body(DECISION, DecisionSource.STORED, "hit")


def test_weights_of_modules_come_by_layer() -> None:
    sites = (
        "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj",
        "model.layers.2.self_attn.q_proj",
    )  # fmt: skip
    weighed = dataclasses.replace(
        DECISION, site_weights=SiteWeights(sites, ((1.0, 0.5, -1.0),)), scores=()
    )
    body = decision_body(weighed, DecisionSource.STORED, None, explain=True)
    assert body["explain"] == {
        "candidates": [],
        "layers": {
            "columns": ["q_proj", "up_proj"],
            "weights": [[1.0, 0.5], [0.0, 0.0], [-1.0, 0.0]],
        },
    }
