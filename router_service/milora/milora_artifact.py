"""A MiLoRA adapter on disk: a PEFT folder that also holds its routers, of kind "milora"."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch

from cluster.domain.adapter import AdapterEntry
from router_service.artifacts.bound_artifact import BoundArtifact, load_checked, manifest_of
from router_service.artifacts.router_artifact import RouterManifest, save_artifact
from router_service.artifacts.state_dict import to_arrays
from router_service.milora.milora_network import MiloraRouter, tensor_shapes
from router_service.milora.milora_schema import KIND, MiloraHyperparameters


class LoadedMilora(BoundArtifact[MiloraHyperparameters]):
    """Verified routers of an adapter."""

    def router(self) -> MiloraRouter:
        """Build the routers, on the CPU."""
        return MiloraRouter(
            {
                name: torch.from_numpy(np.array(tensor, dtype=np.float32))
                for name, tensor in self.tensors.items()
            },
            top_k=self.hyperparameters.top_k,
            pooling=self.hyperparameters.pooling,
            weighting=self.hyperparameters.weighting,
            normalise=self.hyperparameters.normalise,
        )


def save_milora(
    path: Path,
    *,
    alias: str,
    digest: str,
    hyperparameters: MiloraHyperparameters,
    base_digest: str,
    data_digest: str,
    tensors: dict[str, torch.Tensor],
    metrics: dict[str, float] | None = None,
) -> RouterManifest:
    """Write the routers of the adapter of this digest; returns the manifest with its version."""
    arrays = to_arrays(tensors)
    manifest = manifest_of(
        path,
        KIND,
        hyperparameters,
        _shapes,
        adapters={alias: digest},
        base_digest=base_digest,
        data_digest=data_digest,
        tensors=arrays,
        metrics=metrics,
    )
    return save_artifact(path, manifest, arrays)


def load_milora(
    path: Path,
    *,
    aliases: Collection[str],
    base_digest: str | None,
    adapters: Mapping[str, AdapterEntry] | None = None,
) -> LoadedMilora:
    """Read and verify the routers of an adapter.

    Raises:
        ConfigError: as ``load_checked``.
    """
    return LoadedMilora(
        *load_checked(
            path,
            KIND,
            MiloraHyperparameters,
            _shapes,
            aliases=aliases,
            base_digest=base_digest,
            adapters=adapters,
        )
    )


def _shapes(hyperparameters: MiloraHyperparameters, _: int) -> dict[str, tuple[int, ...]]:
    return tensor_shapes(
        hyperparameters.layers, hyperparameters.hidden_size, hyperparameters.pooling
    )
