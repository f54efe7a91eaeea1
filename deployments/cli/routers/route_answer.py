"""A short answer, asked for to see what a router decides inside the engine."""

import time
from collections.abc import Sequence
from typing import Any

from cluster.domain.decision import Granularity
from cluster.errors import RequestError
from deployments.cli.toolkit.client import BraidClient, ServerAnswer

KEPT_WITHIN_S = 3.0
LOOK_AGAIN_S = 0.1
"""Prefill completes a MiLoRA decision; the replica writes it while it answers."""


def weighs_tokens(decision: dict[str, Any]) -> bool:
    """Check if the weights are made for every token of the answer, as a gate does."""
    return decision.get("granularity") == Granularity.TOKEN


def weighs_modules(decision: dict[str, Any]) -> bool:
    """Check if prefill chooses modules of the one adapter, as MiLoRA does."""
    return decision.get("granularity") == Granularity.PROMPT


def decides_inside(decision: dict[str, Any]) -> bool:
    """Check if the weights are made in the engine, so that only an answer can show them."""
    return weighs_tokens(decision) or weighs_modules(decision)


def with_answer(
    client: BraidClient, decision: dict[str, Any], prompt: str, tokens: int
) -> dict[str, Any]:
    """Complete an explained ``decision`` with the weights of an answer of at most ``tokens``
    tokens.

    ``explain`` gets the answer's weights, and ``answer`` is ``{"text", "tokens"}``. A decision that
    prefill completes is for all tokens of a prompt, those of the chat template too, so it becomes
    the answer's own.

    Raises:
        BraidError: the cluster's refusal.
    """
    question: dict[str, Any] = {"model": f"auto:{decision['router']}"}
    chat = {"messages": [{"role": "user", "content": prompt}]}
    greedy = {"max_tokens": tokens, "temperature": 0, "explain": True}
    try:
        answer = client.chat({**question, **chat, **greedy, "logprobs": True})
        question |= chat
    except RequestError:  # a base without a chat template takes plain text only
        question |= {"prompt": prompt}
        answer = client.post("/v1/completions", {**question, **greedy, "logprobs": 0})
    (choice,) = answer.body["choices"]
    if weighs_modules(decision):
        decision = _completed(client, question, answer)
    return {
        **decision,
        "explain": {**decision["explain"], **choice.get("explain", {})},
        "answer": _shown(choice),
    }


def _completed(
    client: BraidClient, question: dict[str, Any], answer: ServerAnswer
) -> dict[str, Any]:
    """Read the answer's decision; if the answer left out what prefill chose, from the store."""
    told = "layers" in answer.body["choices"][0].get("explain", {})
    deadline = time.monotonic() + KEPT_WITHIN_S
    while True:
        decision = client.post("/v1/route", {**question, "explain": True}).body
        if told or "layers" in decision["explain"] or time.monotonic() >= deadline:
            return {**decision, "source": answer.source or decision["source"]}
        time.sleep(LOOK_AGAIN_S)


def _shown(choice: dict[str, Any]) -> dict[str, Any]:
    """Read text and tokens of a choice, in either of OpenAI's shapes."""
    logprobs = choice.get("logprobs") or {}
    if "message" in choice:
        tokens = [item["token"] for item in logprobs.get("content") or ()]
        return {"text": choice["message"]["content"], "tokens": tokens}
    return {"text": choice["text"], "tokens": logprobs.get("tokens") or []}


def by_adapter(explained: dict[str, Any]) -> dict[str, list[list[float]]]:
    """Sort a gate's weights [layers][tokens] by adapter, in the gate's order."""
    weights: Sequence[Sequence[Sequence[float]]] = explained["gate_weights"]
    return {
        name: [[token[layer][place] for token in weights] for layer in range(len(weights[0]))]
        for place, name in enumerate(explained["adapters"])
    }
