"""Derivative-free search for the weights of a mixture, after LoraHub (arXiv 2307.13269).

LoraHub minimises loss + 0.05 * mean |w| over w in [-1.5, 1.5], from 0, with a portfolio optimiser
over about 40 evaluations. Here it is a (1+1) evolution strategy with the one-fifth success rule:
for a handful of weights it needs no library, and a seed makes it repeatable.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field

from cluster.config import Section
from router_service.routers.base import WEIGHT_DECIMALS

Weights = tuple[float, ...]

_GROWTH = math.exp(0.8)  # of the step after a success; four failures undo it: the one-fifth rule
_SHRINK = math.exp(-0.2)


class SearchConfig(Section):
    """Settings of a search."""

    model_config = ConfigDict(allow_inf_nan=False)

    steps: Annotated[int, Field(ge=1)] = 40
    """Evaluations of the loss."""
    bound: Annotated[float, Field(gt=0)] = 1.5
    """Weights stay within this of 0."""
    penalty: Annotated[float, Field(ge=0)] = 0.05
    """Of the mean absolute weight, in nats."""
    sigma: Annotated[float, Field(gt=0)] = 0.5
    """Standard deviation of the first steps."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SearchProgress:
    """After an evaluation."""

    step: int  # evaluations done
    steps: int
    loss: float  # of the best weights so far, without the penalty
    weights: Weights  # the best so far


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The best weights found."""

    weights: Weights
    loss: float  # without the penalty
    objective: float  # with it


def search(
    loss: Callable[[Weights], float],
    dimensions: int,
    config: SearchConfig,
    progress: Callable[[SearchProgress], None] | None = None,
) -> SearchResult:
    """Minimise ``loss(w) + penalty * mean |w|``; the same loss and seed give the same weights.

    Weights are evaluated rounded, as they will be served. A loss that is not finite is never taken.
    """
    rng = random.Random(f"{config.seed}/search")
    best: SearchResult | None = None
    sigma = config.sigma
    for step in range(1, config.steps + 1):
        weights = (0.0,) * dimensions
        if best is not None:
            weights = tuple(_clip(w + sigma * rng.gauss(0, 1), config.bound) for w in best.weights)
        value = loss(weights)
        objective = value + config.penalty * sum(map(abs, weights)) / dimensions
        success = math.isfinite(objective) and (best is None or objective < best.objective)
        if success or best is None:
            best = SearchResult(weights, value, objective if success else math.inf)
        if step > 1:
            sigma = min(sigma * (_GROWTH if success else _SHRINK), config.bound)
        if progress is not None:
            progress(SearchProgress(step, config.steps, best.loss, best.weights))
    assert best is not None  # steps is at least 1
    return best


def _clip(weight: float, bound: float) -> float:
    return round(min(bound, max(-bound, weight)), WEIGHT_DECIMALS)
