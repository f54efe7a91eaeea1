"""Arrow (arXiv 2405.11157): adapters are weighed per token at every linear, without training.

An adapter's prototype at a linear is v, the direction of the input that its B A stretches most. For
the linear's input x, ``c = softmax over the top k of |x . v| / tau``. The sign of v does not
matter, and x is not normalised. There is no artifact: everything follows from the adapters' own
tensors.

The front's half names the adapters; ``ArrowGate`` weighs them in the engine, at each linear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cluster.config import RouterConfig, Section
from cluster.domain.decision import Granularity, tagged_digest
from cluster.engine.mixing import LAYER_MODULES
from cluster.errors import AdapterError, ConfigError
from router_service.artifacts.router_artifact import check_different
from router_service.gate_temperature import GateTemperature
from router_service.routers.base import (
    Declaration,
    Need,
    Resolution,
    RoutedMixture,
    Stage,
)
from router_service.routers.bound import require_all
from router_service.routers.kind import EnginePart, RouterContext, RouterKind

if TYPE_CHECKING:
    import torch

    from cluster.adapters.loader import HostAdapter

KIND = "arrow"
_EPSILON = 1e-8


class ArrowOptions(Section):
    """Adapters to weigh, and how to weigh them."""

    adapters: Annotated[tuple[str, ...], Field(min_length=2)]
    """Aliases; all must adapt the same linears."""
    top_k: Annotated[int, Field(ge=1)] = 3
    """Number of adapters that share a token at a linear; all of them if there are fewer."""
    temperature: GateTemperature = 1.0
    """tau."""
    iterations: Annotated[int, Field(ge=1)] = 15
    """Of the power iteration behind a prototype."""
    seed: int = 0
    """Of the vector that it starts from."""


class ArrowRouter:
    """Names the adapters that the gate weighs; each has weight 1 before that."""

    def __init__(self, name: str, options: ArrowOptions, digests: Mapping[str, str]) -> None:
        """``digests``: version of each adapter; they are part of the version."""
        self.name = name
        self.options = options
        self.candidates = options.adapters
        self.declares = Declaration(
            stage=Stage.SITE,
            granularity=Granularity.TOKEN,
            needs=frozenset({Need.SITE_INPUTS}),
            resolution=Resolution.SITE,
            max_fan_out=len(options.adapters),
        )
        self.version = tagged_digest(
            ("options", options.model_dump_json().encode()),
            *(("adapter", digests[alias].encode()) for alias in options.adapters),
        )

    def route(self, text: str, allowed: frozenset[str]) -> RoutedMixture:
        """Choose every adapter, for every text: the gate chooses among all of them.

        Raises:
            RouterFailed: one of them is not the tenant's.
        """
        del text
        require_all(self.name, self.candidates, allowed)
        return RoutedMixture(tuple((alias, 1.0) for alias in self.candidates), ())


class ArrowGate:
    """The gate over adapters in a given order; a `cluster.engine.mixing.MixingGate`.

    ``resolution`` is "site": ``weights`` is asked for each of a layer's linears, in the order of
    ``LAYER_MODULES``, with that linear's own input.
    """

    resolution: Literal["site"] = "site"

    def __init__(
        self,
        prototypes: Mapping[tuple[int, int], torch.Tensor],
        num_adapters: int,
        num_layers: int,
        hidden_size: int,
        options: ArrowOptions,
    ) -> None:
        """``prototypes``: (layer, index in LAYER_MODULES) -> unit vectors [k, d_in], fp32."""
        self.num_adapters = num_adapters
        self.num_layers = num_layers
        self.hidden_size = hidden_size
        self._prototypes = dict(prototypes)
        self._top_k = min(options.top_k, num_adapters)
        self._temperature = options.temperature

    def weights(self, layer: int, site: int | None, x: torch.Tensor) -> torch.Tensor:
        """Compute c [T, k] in fp32 of a linear's inputs ``x`` [T, d_in]; 0 at linears without
        adapters."""
        if site is None:
            raise ValueError("Arrow weighs each linear by itself; a site is needed")
        rows = x.float()
        prototypes = self._prototypes.get((layer, site))
        if prototypes is None:
            return rows.new_zeros(rows.shape[0], self.num_adapters)
        similarity = (rows @ prototypes.T).abs()  # [T, k]
        values, kept = similarity.topk(self._top_k, dim=-1)
        shares = (values / self._temperature).softmax(dim=-1)
        weights: torch.Tensor = rows.new_zeros(similarity.shape).scatter(-1, kept, shares)
        return weights

    def to(self, device: torch.device) -> ArrowGate:
        """Copy the gate with its prototypes on ``device``."""
        moved = ArrowGate.__new__(ArrowGate)
        moved.__dict__.update(self.__dict__)
        moved._prototypes = {at: tensor.to(device) for at, tensor in self._prototypes.items()}
        return moved


def prototype(
    A: torch.Tensor, B: torch.Tensor, *, iterations: int = 15, seed: int = 0
) -> torch.Tensor:
    """Compute v [d_in], fp32: the top right singular vector of B A, up to its sign.

    Power iteration v <- A'(B'B)(A v), normalised, from a vector drawn from ``seed``; neither B A
    [d_out, d_in] nor its square is ever formed.

    Args:
        A: [r, d_in].
        B: [d_out, r].
    """
    import torch

    a, b = A.float(), B.float()
    gram = b.T @ b  # [r, r]
    generator = torch.Generator(device=a.device).manual_seed(seed)
    v: torch.Tensor = torch.randn(a.shape[1], generator=generator, device=a.device)
    v = v / (v.norm() + _EPSILON)
    for _ in range(iterations):
        v = a.T @ (gram @ (a @ v))
        v = v / (v.norm() + _EPSILON)
    return v


def build_gate(
    adapters: Sequence[HostAdapter], options: ArrowOptions, *, num_layers: int, hidden_size: int
) -> ArrowGate:
    """Build the gate over loaded adapters, in their order.

    Raises:
        AdapterError: two adapters adapt different linears, or a linear is in no decoder layer.
    """
    import torch

    modules = set(adapters[0].tensors)
    for adapter in adapters[1:]:
        if differing := sorted(modules ^ set(adapter.tensors)):
            raise AdapterError(f"Arrow needs adapters of the same linears; {differing[0]} is not")
    prototypes = {}
    for path in sorted(modules):
        vectors = [
            prototype(t.A, t.B, iterations=options.iterations, seed=options.seed)
            for t in (adapter.tensors[path] for adapter in adapters)
        ]
        prototypes[_place(path)] = torch.stack(vectors)
    return ArrowGate(prototypes, len(adapters), num_layers, hidden_size, options)


def _place(path: str) -> tuple[int, int]:
    """Parse ``model.layers.3.mlp.up_proj`` into (layer, index in LAYER_MODULES)."""
    parts = path.split(".")
    layer = next((int(part) for part in parts if part.isdecimal()), None)
    if layer is None or parts[-1] not in LAYER_MODULES:
        raise AdapterError(f"{path}: not a linear of a decoder layer that Arrow weighs")
    return layer, LAYER_MODULES.index(parts[-1])


def _build(config: RouterConfig, options: ArrowOptions, context: RouterContext) -> ArrowRouter:
    where = f"routers.{config.name}.options.adapters"
    if config.path is not None:
        raise ConfigError(f"routers.{config.name}.path: Arrow has no artifact")
    modules: dict[str, tuple[str, ...]] = {}
    for alias in options.adapters:
        entry = context.adapters.get(alias)
        if entry is None or alias in modules:
            raise ConfigError(f"{where}: {alias!r} is not an adapter here, or is named twice")
        modules[alias] = entry.manifest.modules
    first = options.adapters[0]
    for alias, own in modules.items():
        if own != modules[first]:
            differing = sorted(set(own) ^ set(modules[first]))[0]
            raise ConfigError(
                f"{where}: {alias!r} and {first!r} do not adapt the same linears: {differing}"
            )
    digests = {alias: str(context.adapters[alias].key.digest) for alias in options.adapters}
    check_different(where, digests)
    return ArrowRouter(config.name, options, digests)


def _part(config: RouterConfig, options: ArrowOptions, context: RouterContext) -> EnginePart:
    from router_service.merging.merge import read_adapter

    adapters = []
    for alias in options.adapters:
        entry = context.adapters[alias]
        adapter = read_adapter(Path(entry.path))
        if adapter.manifest.digest != entry.key.digest:
            raise ConfigError(
                f"routers.{config.name}: {entry.path}: changed since it was catalogued"
            )
        adapters.append(adapter)
    gate = build_gate(
        adapters,
        options,
        num_layers=context.base_layers or 0,
        hidden_size=context.base_width or 0,
    )
    return EnginePart(tuple(str(a.manifest.digest) for a in adapters), gate=gate)


ROUTER_KIND = RouterKind(KIND, ArrowOptions, _build, _part)
