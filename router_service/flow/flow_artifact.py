"""A gate on disk: ``router.json`` and ``router.safetensors`` of kind "flow"."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch

from cluster.domain.adapter import AdapterEntry
from router_service.artifacts.bound_artifact import BoundArtifact, load_checked, manifest_of
from router_service.artifacts.outputs import writing
from router_service.artifacts.router_artifact import RouterManifest, check_different, save_artifact
from router_service.artifacts.state_dict import to_arrays
from router_service.flow.flow_schema import KIND, FlowHyperparameters
from router_service.flow.gate import FlowGate


class LoadedGate(BoundArtifact[FlowHyperparameters]):
    """A verified gate."""

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
    arrays = to_arrays({"weight": weight, "bias": bias})
    manifest = manifest_of(
        path,
        KIND,
        hyperparameters,
        _shapes,
        adapters=adapters,
        base_digest=base_digest,
        data_digest=data_digest,
        tensors=arrays,
        metrics=metrics,
    )
    with writing(path):
        return save_artifact(path, manifest, arrays)


def load_gate(
    path: Path,
    *,
    aliases: Collection[str],
    base_digest: str | None,
    adapters: Mapping[str, AdapterEntry] | None = None,
) -> LoadedGate:
    """Read and verify a gate.

    Raises:
        ConfigError: as ``load_checked``.
    """
    return LoadedGate(
        *load_checked(
            path,
            KIND,
            FlowHyperparameters,
            _shapes,
            aliases=aliases,
            base_digest=base_digest,
            adapters=adapters,
        )
    )


def _shapes(hyperparameters: FlowHyperparameters, adapters: int) -> dict[str, tuple[int, ...]]:
    layers = hyperparameters.layers
    return {
        "weight": (layers, adapters, hyperparameters.hidden_size),
        "bias": (layers, adapters),
    }
