"""A MiLoRA adapter on disk: a PEFT folder that also holds its routers, of kind "milora"."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cluster.domain.adapter import AdapterEntry
from router_service.artifacts.router_artifact import (
    RouterManifest,
    Tensors,
    check_tensors,
    load_artifact,
    parse_hyperparameters,
    save_artifact,
)
from router_service.milora.milora_network import MiloraRouter, tensor_shapes
from router_service.milora.milora_schema import KIND, MiloraHyperparameters


@dataclass(frozen=True)
class LoadedMilora:
    """A verified artifact."""

    manifest: RouterManifest
    hyperparameters: MiloraHyperparameters
    tensors: Tensors

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
    manifest = RouterManifest(
        kind=KIND,
        candidates=(alias,),
        base_digest=base_digest,
        adapter_digests={alias: digest},
        hyperparameters=hyperparameters.model_dump(mode="json"),
        data_digest=data_digest,
        metrics=metrics or {},
    )
    arrays = {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}
    check_tensors(path, arrays, _shapes(hyperparameters))
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
        ConfigError: see ``artifacts.load_artifact``; or tensors that do not fit the manifest.
    """
    manifest, tensors = load_artifact(
        path, kind=KIND, aliases=aliases, base_digest=base_digest, adapters=adapters
    )
    parsed = parse_hyperparameters(path, manifest, MiloraHyperparameters)
    check_tensors(path, tensors, _shapes(parsed))
    return LoadedMilora(manifest, parsed, tensors)


def _shapes(hyperparameters: MiloraHyperparameters) -> dict[str, tuple[int, ...]]:
    return tensor_shapes(
        hyperparameters.layers, hyperparameters.hidden_size, hyperparameters.pooling
    )
