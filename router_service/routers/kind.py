"""Contract between a router kind, the registry and the application."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.config import RouterConfig, Section
from cluster.domain.adapter import AdapterEntry
from cluster.engine.mixing_parts import MixingGate, PrefillRouter
from cluster.errors import ConfigError
from router_service.routers.base import Need, PromptRouter

SERVED_NEEDS = frozenset(Need)
"""Inputs that a cluster gives its routers: the text at the front, hidden states and the inputs of
linears in the engine."""


@dataclass(frozen=True, slots=True)
class RouterContext:
    """Facts that the application gives its routers."""

    aliases: frozenset[str]  # of every adapter in the catalog
    max_mixture: int  # most adapters in one mixture
    base_digest: str | None = None
    base_layers: int | None = None  # of the base model; None: not known here
    base_width: int | None = None  # hidden size of the base model
    provides: frozenset[Need] = frozenset({Need.TEXT})
    adapters: Mapping[str, AdapterEntry] = field(default_factory=dict)  # the catalog's, by alias


def router_context(
    adapters: Mapping[str, AdapterEntry],
    max_mixture: int,
    base_path: Path,
    base_digest: str,
    provides: frozenset[Need] = frozenset({Need.TEXT}),
) -> RouterContext:
    """Make the context of an application that serves the base model in ``base_path``.

    Raises:
        ConfigError: its config.json cannot be read.
    """
    where = base_path / "config.json"
    try:
        base = json.loads(where.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: cannot be read: {error}") from error
    return RouterContext(
        aliases=frozenset(adapters),
        max_mixture=max_mixture,
        base_digest=base_digest,
        base_layers=base.get("num_hidden_layers"),
        base_width=base.get("hidden_size"),
        provides=provides,
        adapters=adapters,
    )


@dataclass(frozen=True, slots=True)
class EnginePart:
    """Part of a router that runs inside the engine: a gate, or a router in prefill."""

    digests: tuple[str, ...]  # versions of its adapters, in its order
    gate: MixingGate | None = None
    router: PrefillRouter | None = None


@dataclass(frozen=True, slots=True)
class RouterKind:
    """Builder of the routers of one kind.

    ``build`` gets the configuration, its options validated by ``options``, and the context; it
    raises ConfigError for an artifact that cannot be used. So does ``part``, which a kind has whose
    weights are decided inside the engine.
    """

    name: str
    options: type[Section]
    build: Callable[[RouterConfig, Any, RouterContext], PromptRouter]
    part: Callable[[RouterConfig, Any, RouterContext], EnginePart] | None = None


def artifact_path(config: RouterConfig) -> Path:
    """Find the artifact's folder.

    Raises:
        ConfigError: the configuration names none.
    """
    if config.path is None:
        raise ConfigError(f"routers.{config.name}.path: missing; this kind has an artifact")
    return config.path
