"""Training of a MiLoRA adapter (arXiv 2410.18035): LoRA on seven modules, and its routers.

The LoRA is PEFT's; hooks multiply the output of every B by the weight that the layer's router gives
its module for the row's prompt.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import set_peft_model_state_dict
from torch import nn

from cluster.adapters.format.manifest import read_manifest
from cluster.base_model.checks import decoder_layers
from cluster.base_model.source import ModelLocation
from cluster.engine.mixing import LAYER_MODULES
from router_service.artifacts.outputs import check_alias
from router_service.milora.milora_artifact import save_milora
from router_service.milora.milora_network import MiloraRouter, tensor_shapes
from router_service.milora.milora_schema import MiloraHyperparameters
from router_service.milora.module_masks import balance_loss
from router_service.milora.rational import gelu_coefficients
from training.adapter import add_lora, lora_weights
from training.checkpoint import Tensors
from training.config import MiloraTrainingConfig
from training.encoding import EncodedBatch, EncodedExample, collate
from training.export import export_adapter
from training.loss import completion_loss
from training.run import (
    FetchProgress,
    Finished,
    Parameters,
    Recipe,
    TrainProgress,
    TrainReport,
    run_training,
)

_ROUTER = "router."
_COEFFICIENTS = ("numerator", "denominator")
_PROJECTION_STD = 0.02


def train_milora(
    config: MiloraTrainingConfig,
    progress: Callable[[TrainProgress], None] | None = None,
    *,
    fetch_progress: FetchProgress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainReport:
    """Train an adapter with its routers and write both to ``config.out``.

    Raises:
        ConfigError: no adapter can have the name; or see ``run_training``.
        TrainingDataError: a line of the data is wrong or too long, or there is too little of it.
        ModelSourceError: the base model cannot be had.
    """
    alias = _alias(config)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha or config.rank,  # type: ignore[arg-type]  # PEFT takes any number
        target_modules=list(LAYER_MODULES),
        task_type="CAUSAL_LM",
    )

    def make_trainee(model: Any, base: ModelLocation, pad_id: int) -> "MiloraTrainee":
        del base
        return MiloraTrainee(add_lora(model, lora, config.seed), config, pad_id)

    def recipe(n_train: int) -> Recipe:
        del n_train
        return Recipe(
            config.steps,
            warmup_steps=round(config.warmup_share * config.steps),
            decay="linear",
            weight_decay=config.weight_decay,
            dev_learning_rate=config.coefficient_learning_rate,
            dev_every=config.coefficient_every,
        )

    def export(finished: Finished) -> int:
        adapter, routers = _split(finished.weights)
        manifest = {"format": 1, **finished.provenance}
        nbytes = export_adapter(config.out, adapter, lora, manifest)
        layers, hidden_size, _ = routers["projection"].shape
        save_milora(
            config.out,
            alias=alias,
            digest=read_manifest(config.out)[0].digest,
            hyperparameters=MiloraHyperparameters(
                top_k=config.top_k,
                pooling=config.pooling,
                weighting=config.weighting,
                normalise=config.normalise,
                layers=layers,
                hidden_size=hidden_size,
                training=finished.provenance,
            ),
            base_digest=finished.base.digest,
            data_digest=finished.data_digest,
            tensors=routers,
            metrics=finished.metrics,
        )
        return nbytes

    return run_training(
        config,
        make_trainee=make_trainee,
        recipe=recipe,
        export=export,
        progress=progress,
        fetch_progress=fetch_progress,
        clock=clock,
    )


def _alias(config: MiloraTrainingConfig) -> str:
    """Choose the name that adapter and routers are tied to.

    Raises:
        ConfigError: no adapter can have it.
    """
    if config.alias is not None:
        check_alias(config.alias, "alias")
        return config.alias
    name = config.out.resolve().name
    check_alias(name, "out, whose last part names the adapter unless --alias does")
    return name


class MiloraTrainee:
    """A base with one trainable adapter whose modules are weighed per prompt; a `Trainee`."""

    def __init__(self, model: Any, config: MiloraTrainingConfig, pad_id: int) -> None:
        self._model = model
        self._pad_id = pad_id
        self._balance = config.balance
        base_config = model.get_base_model().config
        self._tensors = initial_tensors(
            base_config.num_hidden_layers, base_config.hidden_size, config
        )
        self._router = MiloraRouter(
            self._tensors,
            top_k=config.top_k,
            pooling=config.pooling,
            weighting=config.weighting,
            normalise=config.normalise,
        )
        lora = {name: p for name, p in model.named_parameters() if p.requires_grad}
        routers = {
            _ROUTER + name: p for name, p in self._tensors.items() if name not in _COEFFICIENTS
        }
        self.parameters: Parameters = {**lora, **routers}
        self.dev_parameters: Parameters = {
            _ROUTER + name: self._tensors[name] for name in _COEFFICIENTS
        }
        self._prompt_mask: torch.Tensor | None = None  # [B, T], of the batch that is running
        self._logits: list[torch.Tensor] = []  # [B, 7] of each layer that has run
        self._weights: torch.Tensor | None = None  # [B, 7] of the layer that is running
        self._add_hooks()

    def loss(self, examples: Sequence[EncodedExample]) -> torch.Tensor:
        task = self._task_loss(examples)
        balance = torch.stack([balance_loss(u) for u in self._logits]).mean()
        return task + self._balance * balance

    def dev_loss(self, examples: Sequence[EncodedExample]) -> float:
        return float(self._task_loss(examples))

    def weights(self) -> Tensors:
        routers = {_ROUTER + name: p.detach().clone() for name, p in self._tensors.items()}
        return {**lora_weights(self._model), **routers}

    @torch.no_grad()
    def load_weights(self, weights: Tensors) -> None:
        adapter, routers = _split(weights)
        set_peft_model_state_dict(self._model, adapter)
        for name, parameter in self._tensors.items():
            parameter.copy_(routers[name])

    def _task_loss(self, examples: Sequence[EncodedExample]) -> torch.Tensor:
        # A shared prefix would be computed without the rows' own masks.
        batch: EncodedBatch = collate(examples, pad_id=self._pad_id, share_prefix=False)
        self._prompt_mask = batch.prompt_mask
        self._logits = []
        return completion_loss(self._model, batch)

    def _add_hooks(self) -> None:
        for index, layer in enumerate(decoder_layers(self._model.get_base_model())):
            layer.register_forward_pre_hook(self._enter(index), with_kwargs=True)
            for path, module in layer.named_modules():
                owner, _, adapter = path.partition(".lora_B.")
                if adapter:
                    slot = LAYER_MODULES.index(owner.rpartition(".")[2])
                    module.register_forward_hook(self._scale(slot))

    def _enter(self, index: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            assert self._prompt_mask is not None
            logits = self._router.logits(index, hidden, self._prompt_mask)
            self._logits.append(logits)
            self._weights = self._router.choose(logits)

        return hook

    def _scale(self, slot: int) -> Callable[..., torch.Tensor]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            assert self._weights is not None
            return output * self._weights[:, slot, None, None]

        return hook


def initial_tensors(
    layers: int, hidden_size: int, config: MiloraTrainingConfig
) -> dict[str, nn.Parameter]:
    """Make trainable routers: the activation is GELU, self-attention pools the mean."""
    generator = torch.Generator().manual_seed(config.seed)
    numerator, denominator = gelu_coefficients()
    tensors: dict[str, nn.Parameter] = {}
    for name, shape in tensor_shapes(layers, hidden_size, config.pooling).items():
        match name:
            case "projection":
                start = torch.randn(shape, generator=generator) * _PROJECTION_STD
            case "numerator":
                start = numerator.repeat(layers, 1)
            case "denominator":
                start = denominator.repeat(layers, 1)
            case _:
                start = torch.zeros(shape)
        tensors[name] = nn.Parameter(start)
    return tensors


def _split(weights: Tensors) -> tuple[Tensors, Tensors]:
    """Split the adapter's tensors from the routers', which get their own names."""
    routers = {k.removeprefix(_ROUTER): v for k, v in weights.items() if k.startswith(_ROUTER)}
    return {k: v for k, v in weights.items() if not k.startswith(_ROUTER)}, routers
