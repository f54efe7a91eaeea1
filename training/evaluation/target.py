"""Targets of an evaluation: the base, an adapter, a mixture, or a router."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from cluster.adapters.catalog import AdapterCatalog
from cluster.base_model.source import QUICKSTART_MODEL, ModelLocation
from cluster.config import RouterConfig, Section
from cluster.domain.adapter import AdapterManifest
from cluster.errors import ConfigError
from router_service.artifacts.router_artifact import BASE_ALIAS
from router_service.router_kinds import default_registry
from router_service.routers.base import PromptRouter
from router_service.routers.kind import SERVED_NEEDS, EnginePart, router_context
from training.evaluation.local_engine import Weights

Metric = Literal["exact", "value", "choice", "perplexity"]


class EvalConfig(Section):
    """Settings of ``evaluate``; of adapter, mixture and router at most one is given."""

    model_config = ConfigDict(allow_inf_nan=False)

    data: Path
    """JSONL of {"prompt", "completion"}, with "answer" or "choices" where the metric needs them."""
    metric: Metric = "exact"
    """exact: the greedy answer is the completion. value: it comes to the number in "answer".
    choice: the completion is the likeliest of the choices. perplexity: of the completion."""
    adapters: Path | None = None
    """Folder of PEFT folders that mixture and router name."""
    adapter: Path | None = None
    """One PEFT folder."""
    mixture: dict[str, float] = Field(default_factory=dict)
    """Weights by alias."""
    router: Path | None = None
    """Folder of a router's artifact."""
    router_options: dict[str, Any] = Field(default_factory=dict)
    base: str = QUICKSTART_MODEL
    cache_dir: Path
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many lines."""
    max_mixture: Annotated[int, Field(ge=1)] = 8
    base_check: Literal["digest", "name"] = "digest"
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 leaves the library's choice."""


class Target:
    """Folders by alias, and a mixture for each prompt."""

    def __init__(self, config: EvalConfig, base: ModelLocation) -> None:
        """Raises ConfigError for an alias that is not there or a router that does not fit."""
        self.folders: dict[str, Path] = {}
        self.name = "base"
        self._fixed: Weights = ()
        self._router: PromptRouter | None = None
        self.part: EnginePart | None = None
        """Part of the router that runs inside the engine."""
        self._allowed: frozenset[str] = frozenset()
        if config.adapter is not None:
            alias = config.adapter.resolve().name
            self.folders = {alias: config.adapter}
            self.name, self._fixed = alias, ((alias, 1.0),)
        elif config.mixture or config.router is not None:
            self._from_catalog(config, base)

    def mixture(self, prompt: str) -> Weights:
        """Choose the adapters that answer a prompt; none is the base alone."""
        if self._router is None:
            return self._fixed
        return self._router.route(prompt, self._allowed).weights

    def version(self, manifests: Mapping[str, AdapterManifest]) -> str:
        """Return the router's digest, else the adapters' digests and weights; "" for the base."""
        if self._router is not None:
            return self._router.version
        return ",".join(f"{manifests[alias].digest}={weight!r}" for alias, weight in self._fixed)

    def _from_catalog(self, config: EvalConfig, base: ModelLocation) -> None:
        if config.adapters is None:
            raise ConfigError("adapters: missing; a mixture and a router need their folder")
        entries = AdapterCatalog.scan(config.adapters).entries
        self.folders = {alias: Path(entry.path) for alias, entry in entries.items()}
        if config.router is not None:
            chosen = RouterConfig(
                name=config.router.resolve().name,
                path=config.router,
                options=config.router_options,
            )
            context = router_context(
                entries, config.max_mixture, base.path, base.digest, provides=SERVED_NEEDS
            )
            registry = default_registry()
            self._router = registry.build(chosen, context)
            self.part = registry.build_parts([chosen], context).get(self._router.version)
            self._allowed = frozenset({*entries, BASE_ALIAS})
            self.name = self._router.name
            return
        for alias in config.mixture:
            if alias not in entries:
                known = ", ".join(entries) or "none"
                raise ConfigError(f"mixture: no adapter {alias!r}; there are: {known}")
        self._fixed = tuple(config.mixture.items())
        self.name = ",".join(f"{alias}={weight:g}" for alias, weight in self._fixed)


def check_target(config: EvalConfig) -> None:
    """Raise ConfigError where more than one target is given."""
    there = {
        "adapter": config.adapter is not None,
        "mixture": bool(config.mixture),
        "router": config.router is not None,
    }
    given = [name for name, is_given in there.items() if is_given]
    if config.router_options and config.router is None:
        raise ConfigError("router_options: expected a router as well, found none; name one")
    if len(given) > 1:
        raise ConfigError(f"{given[1]}: not together with {given[0]}; one target at a time")
