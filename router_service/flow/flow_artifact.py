"""A gate on disk: ``router.json`` and ``router.safetensors`` of kind "flow"."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cluster.domain.adapter import AdapterEntry
from router_service.artifacts.outputs import writing
from router_service.artifacts.router_artifact import (
    RouterManifest,
    Tensors,
    check_different,
    check_tensors,
    load_artifact,
    parse_hyperparameters,
    save_artifact,
)
from router_service.flow.flow_schema import KIND, FlowHyperparameters
from router_service.flow.gate import FlowGate


@dataclass(frozen=True)
class LoadedGate:
    """A verified artifact."""

    manifest: RouterManifest
    hyperparameters: FlowHyperparameters
    tensors: Tensors

    def gate(self) -> FlowGate:
        """Build the gate, on the CPU."""
        weight, bias = (
            torch.from_numpy(np.array(self.tensors[name], dtype=np.float32))
            for name in ("weight", "bias")
        )
        return FlowGate(weight, bias, self.hyperparameters.temperature)


def save_gate(
    path: Path,
    *,
    adapters: Mapping[str, str],
    hyperparameters: FlowHyperparameters,
    base_digest: str,
    data_digest: str,
    weight: torch.Tensor,
    bias: torch.Tensor,
    metrics: dict[str, float] | None = None,
) -> RouterManifest:
    """Write a gate with W_g [L, k, d] and b [L, k]; returns the manifest with its version.

    ``adapters`` are alias -> digest in the gate's order.

    Raises:
        ConfigError: two of them are one adapter, the tensors do not fit, or ``path`` cannot be
            written.
    """
    check_different(str(path), adapters)
    manifest = RouterManifest(
        kind=KIND,
        candidates=tuple(adapters),
        base_digest=base_digest,
        adapter_digests=dict(adapters),
        hyperparameters=hyperparameters.model_dump(mode="json"),
        data_digest=data_digest,
        metrics=metrics or {},
    )
    tensors = {
        "weight": weight.detach().float().cpu().numpy(),
        "bias": bias.detach().float().cpu().numpy(),
    }
    check_tensors(path, tensors, _shapes(hyperparameters, len(adapters)))
    with writing(path):
        return save_artifact(path, manifest, tensors)


def load_gate(
    path: Path,
    *,
    aliases: Collection[str],
    base_digest: str | None,
    adapters: Mapping[str, AdapterEntry] | None = None,
) -> LoadedGate:
    """Read and verify a gate.

    Raises:
        ConfigError: see ``artifacts.load_artifact``; or tensors that do not fit the manifest.
    """
    manifest, tensors = load_artifact(
        path, kind=KIND, aliases=aliases, base_digest=base_digest, adapters=adapters
    )
    parsed = parse_hyperparameters(path, manifest, FlowHyperparameters)
    check_tensors(path, tensors, _shapes(parsed, len(manifest.candidates)))
    return LoadedGate(manifest, parsed, tensors)


def _shapes(hyperparameters: FlowHyperparameters, adapters: int) -> dict[str, tuple[int, ...]]:
    layers = hyperparameters.layers
    return {
        "weight": (layers, adapters, hyperparameters.hidden_size),
        "bias": (layers, adapters),
    }
