"""Weights from probabilities: DLP-LoRA's Eq. 4 and 5 (arXiv 2410.01497)."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from cluster.config import Section

Probability = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Method = Literal["nucleus", "threshold", "top_k"]
Renormalise = Literal["softmax_probabilities", "divide_by_sum"]


class SelectionConfig(Section):
    """Rules by which candidates are kept and share the weight."""

    method: Method = "nucleus"
    top_p: Probability = 0.6
    """nucleus: kept, likeliest first, while the ones before sum to at most this."""
    threshold: Probability = 0.5
    """threshold: candidates with more than this are kept; the likeliest in any case."""
    top_k: Annotated[int, Field(ge=1)] = 2
    """top_k: this many likeliest are kept."""
    renormalise: Renormalise = "softmax_probabilities"
    """Softmax over the kept *probabilities*, or each divided by their sum."""
    max_fan_out: Annotated[int, Field(ge=1)] | None = None
    """Never keep more than this."""
    min_probability: Share = 0.0
    """The base alone answers where no adapter's probability is at least this."""
    margin: Share = 0.0
    """The base alone answers unless the likeliest adapter is likelier than it by more than this."""
    dilute: bool = False
    """If true, the weight of a base that is kept among adapters is taken from theirs. Otherwise
    the adapters share the whole weight among themselves."""


def softmax(logits: Sequence[float]) -> list[float]:
    """Compute the probabilities [N] of logits [N]."""
    highest = max(logits)
    exponentials = [math.exp(logit - highest) for logit in logits]
    total = math.fsum(exponentials)
    return [value / total for value in exponentials]


def select(probabilities: Sequence[float], config: SelectionConfig) -> list[int]:
    """Choose the indices of the kept candidates, likeliest first; equal ones in candidate order.

    Nucleus: with p sorted descending, j = 1 is kept, j > 1 iff p_1 + ... + p_{j-1} <= top_p, so
    the candidate that crosses the threshold is kept. ``top_p`` = 1 keeps all.
    """
    order = sorted(range(len(probabilities)), key=lambda index: (-probabilities[index], index))
    match config.method:
        case "nucleus":
            kept = _nucleus(order, probabilities, config.top_p)
        case "threshold":
            kept = [index for index in order if probabilities[index] > config.threshold]
            kept = kept or order[:1]
        case "top_k":
            kept = order[: config.top_k]
    return kept if config.max_fan_out is None else kept[: config.max_fan_out]


def abstains(likeliest: float, base: float, config: SelectionConfig) -> bool:
    """Check if the base alone answers.

    Args:
        likeliest: the largest probability of an adapter.
        base: the base's probability, with that of what may not be used; 0 if it has none.
        config: sets how sure a router must be.
    """
    return likeliest < config.min_probability or (base > 0 and likeliest - base <= config.margin)


def renormalise(kept: Sequence[float], how: Renormalise) -> list[float]:
    """Compute the weights of the kept probabilities, summing to 1.

    ``softmax_probabilities`` is Eq. 5 and the official code. ``divide_by_sum`` equals the softmax
    of the kept logits, which the official code uses for top-k.
    """
    if how == "softmax_probabilities":
        return softmax(kept)
    total = math.fsum(kept)
    return [probability / total for probability in kept]


def _nucleus(order: list[int], probabilities: Sequence[float], top_p: float) -> list[int]:
    if top_p >= 1:
        return order
    kept: list[int] = []
    before = 0.0
    for index in order:
        if kept and before > top_p:
            break
        kept.append(index)
        before += probabilities[index]
    return kept
