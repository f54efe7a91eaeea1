"""MiLoRA's front half (arXiv 2410.18035): one adapter, whose modules are chosen in prefill.

The routers themselves, ``router_service.milora``, run where the prompt's hidden states are. What
they chose is part of the stored decision, so a repeat never asks them again.
"""

from cluster.config import RouterConfig, Section
from cluster.domain.decision import Granularity
from router_service.milora.milora_schema import KIND, MiloraHyperparameters
from router_service.routers.base import (
    Axis,
    Declaration,
    Need,
    Resolution,
    RoutedMixture,
    RouterFailed,
    Stage,
)
from router_service.routers.bound import load_bound, read_bound
from router_service.routers.kind import EnginePart, RouterContext, RouterKind


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
    manifest, parsed = read_bound(config, context, KIND, MiloraHyperparameters)
    return MiloraPromptRouter(config.name, manifest.version, manifest.candidates[0], parsed)


def _part(config: RouterConfig, options: MiloraOptions, context: RouterContext) -> EnginePart:
    from router_service.milora.milora_artifact import load_milora

    del options
    loaded, versions = load_bound(config, context, load_milora)
    return EnginePart(versions, router=loaded.router())


ROUTER_KIND = RouterKind(KIND, MiloraOptions, _build, _part)
