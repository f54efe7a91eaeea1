"""Training of a LoRA-Flow gate (arXiv 2402.11455): base and adapters frozen, W_g and b trained."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from cluster.adapters.format.manifest import ANYWHERE, read_manifest
from cluster.adapters.loader import HostAdapter, load_adapter
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.adapters.validation.inside_model import check_weighable
from cluster.base_model.source import ModelLocation
from cluster.config import AdapterConfig
from cluster.errors import ConfigError
from router_service.artifacts.outputs import check_alias, claim_folder
from router_service.artifacts.router_artifact import TENSOR_FILE, check_different
from router_service.flow.flow_artifact import save_gate
from router_service.flow.flow_schema import FlowHyperparameters
from router_service.flow.gate import FlowGate, initial_bias
from training.base_model import linear_shapes
from training.checkpoint import Tensors
from training.completion_trainee import CompletionTrainee
from training.config import GateTrainingConfig
from training.flow.weighted_lora import weigh_adapters
from training.run import (
    FetchProgress,
    Finished,
    Recipe,
    TrainProgress,
    TrainReport,
    run_training,
)

_BETAS = (0.9, 0.95)
_MAX_RANK = 1024
_MEMORY_BYTES = 2**32


def train_gate(
    config: GateTrainingConfig,
    progress: Callable[[TrainProgress], None] | None = None,
    *,
    fetch_progress: FetchProgress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainReport:
    """Train one gate and write its artifact to ``config.out``.

    Raises:
        ConfigError: two adapters are one version or cannot be served, the target is unknown, or
            ``out`` is one of them; or as ``run_training``.
        AdapterError: an adapter cannot be read, or does not fit the base.
        TrainingDataError: a line of the data is wrong or too long, or there is too little of it.
        ModelSourceError: the base model cannot be had.
    """
    aliases = tuple(path.resolve().name for path in config.adapters)
    if len(set(aliases)) != len(aliases):
        raise ConfigError(f"two adapters have one name: {', '.join(aliases)}")
    for alias in aliases:
        check_alias(alias, "adapter")
    target = aliases[-1] if config.target is None else config.target
    if target not in aliases:
        raise ConfigError(f"target: {target!r} is none of the adapters {', '.join(aliases)}")
    claim_folder(
        config.out, overwrite=config.overwrite, resume=config.resume, reads=config.adapters
    )
    digests = tuple(read_manifest(path, links_below=ANYWHERE)[0].digest for path in config.adapters)
    check_different("adapters", dict(zip(aliases, digests, strict=True)))

    def make_trainee(model: Any, base: ModelLocation, pad_id: int) -> "_Gate":
        shapes = BaseShapes.of_model(base.path, base.digest, base.model_id, linear_shapes(model))
        limits = AdapterConfig(
            max_rank=_MAX_RANK, memory_bytes=_MEMORY_BYTES, base_check=config.base_check
        )
        adapters = [
            load_adapter(path, shapes, limits, links_below=ANYWHERE) for path in config.adapters
        ]
        for path, adapter in zip(config.adapters, adapters, strict=True):
            check_weighable(str(path), adapter.manifest)
        return _Gate(model, adapters, aliases.index(target), config.temperature, pad_id)

    def recipe(n_train: int) -> Recipe:
        steps = config.epochs * -(-n_train // config.batch_size)
        return Recipe(
            steps,
            warmup_steps=round(config.warmup_share * steps),
            betas=_BETAS,
            weight_decay=config.weight_decay,
        )

    def export(finished: Finished) -> int:
        weight = finished.weights["weight"]
        save_gate(
            config.out,
            adapters=dict(zip(aliases, digests, strict=True)),
            hyperparameters=FlowHyperparameters(
                temperature=config.temperature,
                layers=weight.shape[0],
                hidden_size=weight.shape[2],
                training=finished.provenance,
            ),
            base_digest=finished.base.digest,
            data_digest=finished.data_digest,
            weight=weight,
            bias=finished.weights["bias"],
            metrics=finished.metrics,
        )
        return (config.out / TENSOR_FILE).stat().st_size

    return run_training(
        config,
        make_trainee=make_trainee,
        recipe=recipe,
        export=export,
        identity=(*digests, target),
        progress=progress,
        fetch_progress=fetch_progress,
        clock=clock,
    )


class _Gate(CompletionTrainee):
    """A base with k frozen adapters and a trainable gate."""

    def __init__(
        self,
        model: Any,
        adapters: Sequence[HostAdapter],
        target: int,
        temperature: float,
        pad_id: int,
    ) -> None:
        layers, width, k = model.config.num_hidden_layers, model.config.hidden_size, len(adapters)
        weight = nn.Parameter(torch.zeros(layers, k, width))
        bias = nn.Parameter(initial_bias(k, target).repeat(layers, 1))
        gate = FlowGate(weight, bias, temperature)
        weigh_adapters(model, adapters, lambda layer, x: gate.weights(layer, None, x))
        super().__init__(model, {"weight": weight, "bias": bias}, pad_id)

    def weights(self) -> Tensors:
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def load_weights(self, weights: Tensors) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])
