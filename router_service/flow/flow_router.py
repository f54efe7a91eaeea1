"""LoRA-Flow's front half (arXiv 2402.11455): names the adapters that a gate weighs per token.

The gate itself, ``router_service.flow``, runs where the residual stream is.
"""

from cluster.config import RouterConfig, Section
from cluster.domain.decision import CandidateScore, Granularity
from router_service.flow.flow_schema import KIND, FlowHyperparameters
from router_service.routers.base import (
    Declaration,
    Need,
    Resolution,
    RoutedMixture,
    Stage,
)
from router_service.routers.bound import load_bound, read_bound, require_all
from router_service.routers.kind import EnginePart, RouterContext, RouterKind


class FlowOptions(Section):
    """A gate has no settings beside its artifact's."""


class FlowRouter:
    """Answers with all of the gate's adapters, whatever the text; each has weight 1 before it."""

    def __init__(
        self,
        name: str,
        version: str,
        candidates: tuple[str, ...],
        hyperparameters: FlowHyperparameters,
    ) -> None:
        self.name = name
        self.version = version
        self.candidates = candidates
        self.declares = Declaration(
            stage=Stage.LAYER,
            granularity=Granularity.TOKEN,
            needs=frozenset({Need.TOKEN_HIDDEN}),
            resolution=Resolution.LAYER,
            max_fan_out=len(candidates),
            layers=hyperparameters.layers,
            width=hyperparameters.hidden_size,
        )

    def route(self, text: str, allowed: frozenset[str]) -> RoutedMixture:
        """Every adapter of the gate, in its order, with certainty: it cannot weigh fewer.

        Raises:
            RouterFailed: one of them is not the tenant's.
        """
        del text
        require_all(self.name, self.candidates, allowed)
        return RoutedMixture(
            tuple((alias, 1.0) for alias in self.candidates),
            tuple(CandidateScore(alias, 1.0, kept=True) for alias in self.candidates),
        )


def _build(config: RouterConfig, options: FlowOptions, context: RouterContext) -> FlowRouter:
    del options
    manifest, parsed = read_bound(config, context, KIND, FlowHyperparameters)
    return FlowRouter(config.name, manifest.version, manifest.candidates, parsed)


def _part(config: RouterConfig, options: FlowOptions, context: RouterContext) -> EnginePart:
    from router_service.flow.flow_artifact import load_gate

    del options
    loaded, versions = load_bound(config, context, load_gate)
    return EnginePart(versions, gate=loaded.gate())


ROUTER_KIND = RouterKind(KIND, FlowOptions, _build, _part)
