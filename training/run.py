"""Trainings over a frozen base: steps, early stopping, checkpoints, resume.

A `Trainee` is what is trained. Everything that makes a step is a function of settings, data and the
step's number, so an interrupted run continues as if it had never stopped.
"""

import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from cluster.base_model.source import ModelLocation, resolve_model
from cluster.errors import TrainingDataError
from router_service.artifacts.outputs import CHECKPOINT_FILE, claim_folder, drop_checkpoint, writing
from training.base_model import load_base
from training.checkpoint import Tensors, TrainState, load_state, save_state
from training.config import NOT_IN_FINGERPRINT, TrainingConfig
from training.divergence import Diverged, check_loss, check_weights
from training.encoding import EncodedExample, encode_examples
from training.export import created_by
from training.interrupt import delayed_interrupt
from training.jsonl import Example, digest_examples, read_examples
from training.optimizer import load_moments, moments
from training.schedule import batch_indices, learning_rate

Parameters = Mapping[str, torch.nn.Parameter]
FetchProgress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class TrainProgress:
    """Position of a run, after a step."""

    step: int
    total: int
    loss: float
    """Training loss of this step: nats per answer token, and what else is minimised with it."""
    dev_loss: float | None
    """Set after a step at which it was measured; nats per answer token."""
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
    """Size of the weights file."""


@dataclass(frozen=True)
class Recipe:
    """Settings by which a trainee is optimised."""

    steps: int
    warmup_steps: int
    decay: Literal["cosine", "linear"] = "cosine"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    dev_learning_rate: float = 0.0  # of `Trainee.dev_parameters`
    dev_every: int = 1  # steps between two of theirs


class Trainee(Protocol):
    """A model with trainable parameters."""

    @property
    def parameters(self) -> Parameters:
        """Trained on the training examples."""
        ...

    @property
    def dev_parameters(self) -> Parameters:
        """Trained on dev examples in steps of their own, alternating with the others."""
        ...

    def loss(self, examples: Sequence[EncodedExample]) -> torch.Tensor:
        """Compute the loss to minimise: a scalar with gradient."""
        ...

    def dev_loss(self, examples: Sequence[EncodedExample]) -> float:
        """Compute the mean nats per answer token, as served."""
        ...

    def weights(self) -> Tensors:
        """Copy everything that is trained."""
        ...

    def load_weights(self, weights: Tensors) -> None:
        """Put copies from ``weights`` back."""
        ...


@dataclass(frozen=True)
class Finished:
    """Results to write when a run has ended."""

    weights: Tensors  # those with the lowest dev loss; the last where none was measured
    provenance: dict[str, Any]  # base, data, settings and measurements, for a manifest
    data_digest: str
    base: ModelLocation
    dev_loss: float | None

    @property
    def metrics(self) -> dict[str, float]:
        """Measurements for a router's manifest."""
        return {} if self.dev_loss is None else {"dev_loss": self.dev_loss}


def run_training(
    config: TrainingConfig,
    *,
    make_trainee: Callable[[Any, ModelLocation, int], Trainee],
    recipe: Callable[[int], Recipe],
    export: Callable[[Finished], int],
    identity: Sequence[str] = (),
    progress: Callable[[TrainProgress], None] | None = None,
    fetch_progress: FetchProgress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainReport:
    """Train and write the result to ``config.out``.

    An interrupted run leaves its last checkpoint there: that of the step in which it was
    interrupted by SIGINT or SIGTERM in the main thread. The same call with ``resume`` ends with
    the weights that an uninterrupted run would have had. A run that diverges leaves nothing.

    Args:
        config: settings.
        make_trainee: makes the trainee from the base model (in fp32, evaluation mode), its
            location, and the id of the padding token.
        recipe: how to optimise, from the number of training examples.
        export: writes the result; returns the bytes of its weights.
        identity: what else the run depends on, such as digests of adapters it reads.
        progress: called after every step.
        fetch_progress: called while the base model is fetched.
        clock: seconds.

    Raises:
        ConfigError: ``out`` cannot be written, or has a result or a checkpoint that is not to be
            replaced, or one of another run; or the training diverges.
        TrainingDataError: a line of the data is wrong or too long, or there is too little of it.
        ModelSourceError: the base model cannot be had.
        KeyboardInterrupt: after the step that the signal came in.
    """
    claim_folder(config.out, overwrite=config.overwrite, resume=config.resume)
    examples = read_examples(config.data)
    base = resolve_model(config.base, config.cache_dir, fetch_progress)
    if config.threads:
        torch.set_num_threads(config.threads)
    started = clock()
    run = _Run(config, base, examples, make_trainee, recipe, identity)
    done_before = run.state.step
    with delayed_interrupt() as interrupted:
        try:
            for loss, dev_loss in run:
                step, total = run.state.step, run.recipe.steps
                pace = (clock() - started) / (step - done_before)
                if progress:
                    progress(TrainProgress(step, total, loss, dev_loss, pace * (total - step)))
                if interrupted() and step < total:
                    run.save()
                    raise KeyboardInterrupt
            finished = run.finish()
        except Diverged:
            drop_checkpoint(config.out)
            raise
        with writing(config.out):
            nbytes = export(finished)
    return TrainReport(
        out=config.out,
        steps=run.state.step,
        best_step=run.state.best_step,
        train_loss=run.state.losses[-1],
        dev_loss=run.state.best_loss,
        n_train=len(run.train),
        n_dev=len(run.dev),
        seconds=clock() - started,
        bytes=nbytes,
    )


class _Run:
    """One training in progress; iterating does a step and yields its loss and dev loss."""

    def __init__(
        self,
        config: TrainingConfig,
        base: ModelLocation,
        examples: Sequence[Example],
        make_trainee: Callable[[Any, ModelLocation, int], Trainee],
        recipe: Callable[[int], Recipe],
        identity: Sequence[str],
    ) -> None:
        self._config = config
        self._base = base
        self._data_digest = digest_examples(examples)
        self._identity = tuple(identity)
        model, tokenizer = load_base(base.path)
        encoded = encode_examples(tokenizer, examples, max_tokens=config.max_tokens)
        self.train, self.dev = split_dev(encoded, config)
        self.recipe = recipe(len(self.train))
        self.trainee = make_trainee(model, base, tokenizer.pad_token_id)
        self._parameters = {**self.trainee.parameters, **self.trainee.dev_parameters}
        self._optimizer = torch.optim.AdamW(
            [
                {"params": list(group.values())}
                for group in (self.trainee.parameters, self.trainee.dev_parameters)
                if group
            ],
            lr=config.learning_rate,
            betas=self.recipe.betas,
            weight_decay=self.recipe.weight_decay,
        )
        self.checkpoint = config.out / CHECKPOINT_FILE
        self.state = self._restore()

    def __iter__(self) -> "_Run":
        return self

    def __next__(self) -> tuple[float, float | None]:
        config, state, total = self._config, self.state, self.recipe.steps
        stopped = state.evaluations_without_gain >= config.patience
        if state.step >= total or stopped:
            raise StopIteration
        loss = self._step()
        if self.trainee.dev_parameters and (state.step + 1) % self.recipe.dev_every == 0:
            self._dev_step()
        state.losses.append(loss)
        state.step += 1
        last = state.step == total
        dev_loss = None
        if self.dev and (last or state.step % config.eval_every == 0):
            dev_loss = self._evaluate()
        if state.step % config.checkpoint_every == 0 and not last:
            self.save()
        return loss, dev_loss

    def finish(self) -> Finished:
        """Return the kept weights and their origin."""
        state = self.state
        weights = state.best_weights
        if not weights:
            weights, state.best_step = self.trainee.weights(), state.step
        check_weights(weights, step=state.step, rate=self._config.learning_rate)
        return Finished(weights, self._provenance(), self._data_digest, self._base, state.best_loss)

    def _step(self) -> float:
        rate = learning_rate(
            self.state.step,
            peak=self._config.learning_rate,
            warmup=self.recipe.warmup_steps,
            total=self.recipe.steps,
            decay=self.recipe.decay,
        )
        loss = self.trainee.loss(self._batch(self.train, self.state.step, "train"))
        self._check(loss, "training")
        self._update(loss, rate, self.trainee.parameters)
        return float(loss.detach())

    def _dev_step(self) -> None:
        """Step the dev parameters once (arXiv 2410.18035: alternating, as in DARTS)."""
        if not self.dev:
            raise TrainingDataError(
                f"{self._config.data}: dev_examples is 0, and a part is trained on dev examples"
            )
        loss = self.trainee.loss(self._batch(self.dev, self.state.step, "dev"))
        self._check(loss, "dev")
        self._update(loss, self.recipe.dev_learning_rate, self.trainee.dev_parameters)

    def _check(self, loss: torch.Tensor, what: str) -> None:
        """Raise Diverged where the present step's loss is not finite."""
        rate = self._config.learning_rate
        check_loss(float(loss.detach()), what, step=self.state.step + 1, rate=rate)

    def _update(self, loss: torch.Tensor, rate: float, parameters: Parameters) -> None:
        """Run backward and one optimiser step on ``parameters`` alone."""
        self._optimizer.zero_grad(set_to_none=True)
        chosen = list(parameters.values())
        gradients = torch.autograd.grad(loss, chosen, allow_unused=True)
        for parameter, gradient in zip(chosen, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(chosen, self._config.max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()

    def _batch(
        self, examples: Sequence[EncodedExample], step: int, what: str
    ) -> list[EncodedExample]:
        seed = f"{self._config.seed}" if what == "train" else f"{self._config.seed}/{what}"
        indices = batch_indices(
            step,
            n_examples=len(examples),
            batch_size=min(self._config.batch_size, len(examples)),
            seed=seed,
        )
        return [examples[i] for i in indices]

    def _evaluate(self) -> float:
        """Compute the dev loss; keep the weights if it is the lowest so far."""
        size, total, n_targets = self._config.batch_size, 0.0, 0
        with torch.no_grad():
            for start in range(0, len(self.dev), size):
                part = self.dev[start : start + size]
                n = sum(len(example.completion_ids) for example in part)
                total += self.trainee.dev_loss(part) * n
                n_targets += n
        loss, state = total / n_targets, self.state
        check_loss(loss, "dev", step=state.step, rate=self._config.learning_rate)
        if state.best_loss is None or loss < state.best_loss:
            state.best_loss, state.best_step = loss, state.step
            state.best_weights = self.trainee.weights()
            state.evaluations_without_gain = 0
        else:
            state.evaluations_without_gain += 1
        return loss

    def save(self) -> None:
        """Write a checkpoint of the present step."""
        self.state.weights = self.trainee.weights()
        self.state.moments = moments(self._optimizer, self._parameters)
        save_state(self.checkpoint, self.state)

    def _restore(self) -> TrainState:
        fingerprint = self._fingerprint()
        if not (self._config.resume and self.checkpoint.exists()):
            self.checkpoint.unlink(missing_ok=True)
            return TrainState(fingerprint=fingerprint)
        state = load_state(self.checkpoint, fingerprint)
        self.trainee.load_weights(state.weights)
        load_moments(self._optimizer, self._parameters, state.moments)
        return state

    def _settings(self) -> dict[str, Any]:
        return self._config.model_dump(mode="json", exclude=set(NOT_IN_FINGERPRINT))

    def _fingerprint(self) -> str:
        parts = [self._settings(), self._data_digest, self._base.digest, *self._identity]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _provenance(self) -> dict[str, Any]:
        settings = self._settings()
        del settings["threads"]
        return {
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


def split_dev(
    encoded: Sequence[EncodedExample], config: TrainingConfig
) -> tuple[list[EncodedExample], list[EncodedExample]]:
    """Split training and dev examples, drawn from the seed.

    Raises:
        TrainingDataError: nothing would be left to train on.
    """
    if len(encoded) <= config.dev_examples:
        raise TrainingDataError(
            f"{config.data}: {len(encoded)} examples leave nothing to train on besides "
            f"{config.dev_examples} held back (dev_examples); add examples or lower --dev-examples"
        )
    shuffled = list(encoded)
    random.Random(f"{config.seed}/dev").shuffle(shuffled)
    return shuffled[config.dev_examples :], shuffled[: config.dev_examples]
