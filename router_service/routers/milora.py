"""MiLoRA's front half (arXiv 2410.18035): one adapter, whose modules are chosen in prefill.

The routers themselves, ``router_service.milora``, run where the prompt's hidden states are. What
they chose is part of the stored decision, so a repeat never asks them again.
"""

from cluster.config import RouterConfig, Section
from cluster.domain.decision import Granularity
from router_service.artifacts import adapter_generations, load_artifact, parse_hyperparameters
from router_service.milora.schema import KIND, MiloraHyperparameters
from router_service.routers.base import (
    Axis,
    Declaration,
    Need,
    Resolution,
    RoutedMixture,
    RouterFailed,
    Stage,
)
from router_service.routers.kind import EnginePart, RouterContext, RouterKind, artifact_path


class MiloraOptions(Section):
    """The routers have no settings beside their artifact's."""


class MiloraPromptRouter:
    """Answers with the one adapter; its modules' weights come with the first token."""

    def __init__(
        self, name: str, version: str, alias: str, hyperparameters: MiloraHyperparameters
    ) -> None:
        self.name = name
        self.version = version
        self.candidates = (alias,)
        self.declares = Declaration(
            stage=Stage.PREFILL,
            granularity=Granularity.PROMPT,
            needs=frozenset({Need.PROMPT_HIDDEN}),
            axis=Axis.MODULES,
            resolution=Resolution.SITE,
            causal=False,
            max_fan_out=1,
            layers=hyperparameters.layers,
            width=hyperparameters.hidden_size,
        )

    def route(self, text: str, allowed: frozenset[str]) -> RoutedMixture:
        """The adapter, whatever the text.

        Raises:
            RouterFailed: it is not the tenant's.
        """
        del text
        (alias,) = self.candidates
        if alias not in allowed:
            raise RouterFailed(
                f"router {self.name!r} is of adapter {alias!r}, which the tenant may not use"
            )
        return RoutedMixture(((alias, 1.0),), ())


def _build(
    config: RouterConfig, options: MiloraOptions, context: RouterContext
) -> MiloraPromptRouter:
    del options
    path = artifact_path(config)
    manifest, _ = load_artifact(
        path,
        kind=KIND,
        aliases=context.aliases,
        base_digest=context.base_digest,
        adapters=context.adapters,
    )
    parsed = parse_hyperparameters(path, manifest, MiloraHyperparameters)
    adapter_generations(path, manifest)
    return MiloraPromptRouter(config.name, manifest.version, manifest.candidates[0], parsed)


def _part(config: RouterConfig, options: MiloraOptions, context: RouterContext) -> EnginePart:
    from router_service.milora.artifact import load_milora

    del options
    path = artifact_path(config)
    loaded = load_milora(
        path,
        aliases=context.aliases,
        base_digest=context.base_digest,
        adapters=context.adapters,
    )
    return EnginePart(adapter_generations(path, loaded.manifest), router=loaded.router())


ROUTER_KIND = RouterKind(KIND, MiloraOptions, _build, _part)
