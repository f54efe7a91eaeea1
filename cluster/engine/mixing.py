"""Weighs a sequence's adapters where one weight for each of them is not enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from cluster.domain.decision import SiteWeights

LAYER_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Short names of a decoder layer's linears, in the order of a `PrefillRouter`'s weights."""


@dataclass(frozen=True, slots=True)
class Mixing:
    """Beyond a mixture's own weights, which multiply everything here.

    At most one of ``gate`` and ``router`` is named. A router's answer becomes ``site_weights`` when
    the prompt has been computed, and from then on the router is not asked again.
    """

    gate: str = ""  # of the engine's gates: weighs the adapters, in their order, for every token
    router: str = ""  # of the engine's routers: weighs the modules of the one adapter for a prompt
    site_weights: SiteWeights | None = None  # for each adapter, in their order
    prompt_tokens: int | None = None  # what a router sees; None: the request's whole prompt
    complete: Callable[[SiteWeights], str] | None = None
    """KV namespace of the sequence once its router's weights are known."""

    @property
    def is_pending(self) -> bool:
        """Its router has still to be asked."""
        return bool(self.router) and self.site_weights is None

    def completed(self, weights: SiteWeights) -> Self:
        """Return the same with the router's answer."""
        return replace(self, site_weights=weights)
