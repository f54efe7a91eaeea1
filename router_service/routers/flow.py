"""LoRA-Flow's front half (arXiv 2402.11455): names the adapters that a gate weighs per token.

The gate itself, ``router_service.flow``, runs where the residual stream is.
"""

from cluster.config import RouterConfig, Section
from cluster.domain.decision import CandidateScore, Granularity
from router_service.artifacts import adapter_generations, load_artifact, parse_hyperparameters
from router_service.flow.schema import KIND, FlowHyperparameters
from router_service.routers.base import (
    Declaration,
    Need,
    Resolution,
    RoutedMixture,
    RouterFailed,
    Stage,
)
from router_service.routers.kind import EnginePart, RouterContext, RouterKind, artifact_path


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
        missing = [alias for alias in self.candidates if alias not in allowed]
        if missing:
            raise RouterFailed(
                f"router {self.name!r} weighs adapters that the tenant may not use: "
                f"{', '.join(missing)}"
            )
        return RoutedMixture(
            tuple((alias, 1.0) for alias in self.candidates),
            tuple(CandidateScore(alias, 1.0, kept=True) for alias in self.candidates),
        )


def _build(config: RouterConfig, options: FlowOptions, context: RouterContext) -> FlowRouter:
    del options
    path = artifact_path(config)
    manifest, _ = load_artifact(
        path,
        kind=KIND,
        aliases=context.aliases,
        base_digest=context.base_digest,
        adapters=context.adapters,
    )
    parsed = parse_hyperparameters(path, manifest, FlowHyperparameters)
    adapter_generations(path, manifest)
    return FlowRouter(config.name, manifest.version, manifest.candidates, parsed)


def _part(config: RouterConfig, options: FlowOptions, context: RouterContext) -> EnginePart:
    from router_service.flow.artifact import load_gate

    del options
    path = artifact_path(config)
    loaded = load_gate(
        path,
        aliases=context.aliases,
        base_digest=context.base_digest,
        adapters=context.adapters,
    )
    return EnginePart(adapter_generations(path, loaded.manifest), gate=loaded.gate())


ROUTER_KIND = RouterKind(KIND, FlowOptions, _build, _part)
