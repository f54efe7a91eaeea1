"""LoRA fine-tuning of one adapter: JSONL in, a PEFT folder out."""

import hashlib
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

from cluster.engine.model_source import ModelLocation, resolve_model
from cluster.errors import ConfigError, TrainingDataError
from router_service.training.base_model import load_base, quiet_peft
from router_service.training.checkpoint import TrainState, load_state, save_state
from router_service.training.config import AdapterTrainingConfig
from router_service.training.encoding import EncodedExample, collate, encode_examples
from router_service.training.export import WEIGHTS_FILE, created_by, export_adapter
from router_service.training.jsonl import Example, digest_examples, read_examples
from router_service.training.loss import completion_loss
from router_service.training.optimizer import load_moments, moments
from router_service.training.schedule import batch_indices, learning_rate

CHECKPOINT_FILE = "checkpoint.safetensors"
# What does not change the adapter that comes out.
_NOT_IN_FINGERPRINT = {
    "data", "out", "base", "cache_dir", "description", "checkpoint_every", "resume", "overwrite",
}  # fmt: skip


@dataclass(frozen=True)
class TrainProgress:
    """Where a run is, after a step."""

    step: int
    total: int
    loss: float
    """Training loss of this step, in nats per answer token."""
    dev_loss: float | None
    """Set after a step at which it was measured."""
    eta_s: float
    """Seconds left at the pace so far."""


@dataclass(frozen=True)
class TrainReport:
    """The outcome of a run."""

    out: Path
    steps: int
    """Steps done, fewer than asked for after an early stop."""
    best_step: int
    """The step whose weights were kept."""
    train_loss: float
    dev_loss: float | None
    n_train: int
    n_dev: int
    seconds: float
    """Of this call; a resumed run does not count what came before."""
    bytes: int
    """Size of the adapter's weights file."""


def train_adapter(
    config: AdapterTrainingConfig,
    progress: Callable[[TrainProgress], None] | None = None,
    *,
    fetch_progress: Callable[[str, int, int | None], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainReport:
    """Train one adapter and write it to `config.out`.

    An interrupted run leaves its last checkpoint there; the same call with `resume=True` ends with
    the weights an uninterrupted run would have had.

    Raises:
        ConfigError: `out` holds an adapter already, or a checkpoint of another run.
        TrainingDataError: a line of the data is wrong or too long, or there is too little of it.
        ModelSourceError: the base model cannot be had.
    """
    if (config.out / WEIGHTS_FILE).exists() and not config.overwrite:
        raise ConfigError(f"{config.out}: holds an adapter already; overwrite it explicitly")
    examples = read_examples(config.data)
    base = resolve_model(config.base, config.cache_dir, fetch_progress)
    if config.threads:
        torch.set_num_threads(config.threads)
    started = clock()
    run = _Run(config, base, examples)
    done_before = run.state.step
    for loss, dev_loss in run:
        step = run.state.step
        pace = (clock() - started) / (step - done_before)
        if progress:
            progress(
                TrainProgress(step, config.steps, loss, dev_loss, pace * (config.steps - step))
            )
    run.export()
    return TrainReport(
        out=config.out,
        steps=run.state.step,
        best_step=run.state.best_step,
        train_loss=run.state.losses[-1],
        dev_loss=run.state.best_loss,
        n_train=len(run.train),
        n_dev=len(run.dev),
        seconds=clock() - started,
        bytes=(config.out / WEIGHTS_FILE).stat().st_size,
    )


class _Run:
    """One training in progress; iterating does a step and yields its loss and dev loss."""

    def __init__(
        self, config: AdapterTrainingConfig, base: ModelLocation, examples: Sequence[Example]
    ) -> None:
        self._config = config
        self._base = base
        self._data_digest = digest_examples(examples)
        model, tokenizer = load_base(base.path)
        self._pad_id: int = tokenizer.pad_token_id
        encoded = encode_examples(tokenizer, examples, max_tokens=config.max_tokens)
        self.train, self.dev = _split(encoded, config)
        self._lora = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # PEFT takes any number
            target_modules=list(config.target_modules),
            task_type="CAUSAL_LM",
        )
        self._model = _add_lora(model, self._lora, config.seed)
        self._parameters = {n: p for n, p in self._model.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=config.learning_rate, weight_decay=0.0
        )
        self.state = self._restore()

    def __iter__(self) -> "_Run":
        return self

    def __next__(self) -> tuple[float, float | None]:
        config, state = self._config, self.state
        stopped = state.evaluations_without_gain >= config.patience
        if state.step >= config.steps or stopped:
            raise StopIteration
        loss = self._step()
        state.losses.append(loss)
        state.step += 1
        last = state.step == config.steps
        dev_loss = None
        if self.dev and (last or state.step % config.eval_every == 0):
            dev_loss = self._evaluate()
        if state.step % config.checkpoint_every == 0 and not last:
            self._save()
        return loss, dev_loss

    def export(self) -> None:
        """Write the kept weights and drop the checkpoint."""
        weights = self.state.best_weights or self._weights()
        if not self.state.best_weights:
            self.state.best_step = self.state.step
        export_adapter(self._config.out, weights, self._lora, self._manifest())
        self._checkpoint.unlink(missing_ok=True)

    def _step(self) -> float:
        config = self._config
        indices = batch_indices(
            self.state.step,
            n_examples=len(self.train),
            batch_size=config.batch_size,
            seed=config.seed,
        )
        batch = collate([self.train[i] for i in indices], pad_id=self._pad_id)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(
                self.state.step,
                peak=config.learning_rate,
                warmup=config.warmup_steps,
                total=config.steps,
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss = completion_loss(self._model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), config.max_grad_norm)
        self._optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def _evaluate(self) -> float:
        """Dev loss; keeps the weights if it is the lowest so far."""
        size, total, n_targets = self._config.batch_size, 0.0, 0
        for start in range(0, len(self.dev), size):
            batch = collate(self.dev[start : start + size], pad_id=self._pad_id)
            total += float(completion_loss(self._model, batch)) * batch.n_targets
            n_targets += batch.n_targets
        loss, state = total / n_targets, self.state
        if state.best_loss is None or loss < state.best_loss:
            state.best_loss, state.best_step = loss, state.step
            state.best_weights = self._weights()
            state.evaluations_without_gain = 0
        else:
            state.evaluations_without_gain += 1
        return loss

    def _weights(self) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(self._model)
        return {key: tensor.detach().clone() for key, tensor in tensors.items()}

    @property
    def _checkpoint(self) -> Path:
        return self._config.out / CHECKPOINT_FILE

    def _save(self) -> None:
        self._config.out.mkdir(parents=True, exist_ok=True)
        self.state.weights = self._weights()
        self.state.moments = moments(self._optimizer, self._parameters)
        save_state(self._checkpoint, self.state)

    def _restore(self) -> TrainState:
        fingerprint = self._fingerprint()
        if not (self._config.resume and self._checkpoint.exists()):
            return TrainState(fingerprint=fingerprint)
        state = load_state(self._checkpoint, fingerprint)
        set_peft_model_state_dict(self._model, state.weights)
        load_moments(self._optimizer, self._parameters, state.moments, step=state.step)
        return state

    def _fingerprint(self) -> str:
        settings = self._config.model_dump(mode="json", exclude=_NOT_IN_FINGERPRINT)
        parts = json.dumps([settings, self._data_digest, self._base.digest], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()

    def _manifest(self) -> dict[str, Any]:
        settings = self._config.model_dump(mode="json", exclude=_NOT_IN_FINGERPRINT | {"threads"})
        return {
            "format": 1,
            "base_model": self._base.model_id,
            "base_digest": self._base.digest,
            "description": self._config.description,
            "data_digest": self._data_digest,
            "examples": {"train": len(self.train), "dev": len(self.dev)},
            "training": settings,
            "steps_done": self.state.step,
            "best_step": self.state.best_step,
            "dev_loss": self.state.best_loss,
            "created_by": created_by(),
        }


def _split(
    encoded: Sequence[EncodedExample], config: AdapterTrainingConfig
) -> tuple[list[EncodedExample], list[EncodedExample]]:
    """Training and dev examples, drawn from the seed."""
    if len(encoded) <= config.dev_examples:
        raise TrainingDataError(
            f"{config.data}: {len(encoded)} examples do not allow a dev set of "
            f"{config.dev_examples} (dev_examples)"
        )
    shuffled = list(encoded)
    random.Random(f"{config.seed}/dev").shuffle(shuffled)
    return shuffled[config.dev_examples :], shuffled[: config.dev_examples]


def _add_lora(model: Any, lora: LoraConfig, seed: int) -> Any:
    """`model` with fresh trainable LoRA weights, drawn from `seed`."""
    with torch.random.fork_rng(devices=[]), quiet_peft():
        torch.manual_seed(seed)
        return get_peft_model(model, lora)
