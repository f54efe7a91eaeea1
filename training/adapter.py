"""LoRA fine-tuning of one adapter: JSONL in, a PEFT folder out."""

import time
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

from training.base_model import quiet_peft
from training.completion_trainee import CompletionTrainee
from training.config import AdapterTrainingConfig
from training.export import export_adapter
from training.run import (
    FetchProgress,
    Finished,
    Recipe,
    TrainProgress,
    TrainReport,
    run_training,
)


def train_adapter(
    config: AdapterTrainingConfig,
    progress: Callable[[TrainProgress], None] | None = None,
    *,
    fetch_progress: FetchProgress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainReport:
    """Train one adapter and write it to `config.out`.

    Raises:
        ConfigError: see `run_training`.
        TrainingDataError: a line of the data is wrong or too long, or there is too little of it.
        ModelSourceError: the base model cannot be had.
    """
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # PEFT takes any number
        target_modules=list(config.target_modules),
        task_type="CAUSAL_LM",
    )

    def export(finished: Finished) -> int:
        manifest = {"format": 1, **finished.provenance}
        return export_adapter(config.out, finished.weights, lora, manifest)

    return run_training(
        config,
        make_trainee=lambda model, _, pad_id: _Lora(add_lora(model, lora, config.seed), pad_id),
        recipe=lambda _: Recipe(config.steps, config.warmup_steps),
        export=export,
        progress=progress,
        fetch_progress=fetch_progress,
        clock=clock,
    )


def add_lora(model: Any, lora: LoraConfig, seed: int) -> Any:
    """Add fresh trainable LoRA weights, drawn from `seed`, to `model`."""
    with torch.random.fork_rng(devices=[]), quiet_peft():
        torch.manual_seed(seed)
        return get_peft_model(model, lora)


def lora_weights(model: Any) -> dict[str, torch.Tensor]:
    """Copy a PEFT model's trained tensors, under the names of its file."""
    tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(model)
    return {key: tensor.detach().clone() for key, tensor in tensors.items()}


class _Lora(CompletionTrainee):
    """The base model with one trainable adapter."""

    def __init__(self, model: Any, pad_id: int) -> None:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        super().__init__(model, trained, pad_id)

    def weights(self) -> dict[str, torch.Tensor]:
        return lora_weights(self._model)

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        set_peft_model_state_dict(self._model, weights)
