"""Training of a DLP router: cross-entropy on labelled texts (arXiv 2410.01497, section 3)."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional

from cluster.errors import TrainingDataError
from router_service.artifacts.outputs import CHECKPOINT_FILE, claim_folder, drop_checkpoint, writing
from router_service.artifacts.router_artifact import (
    BASE_ALIAS,
    RouterManifest,
    load_artifact,
    save_artifact,
)
from router_service.dlp.dlp_router import DlpRouter
from router_service.dlp.dlp_schema import KIND
from training.checkpoint import TrainState, load_state, save_state
from training.divergence import Diverged, check_loss, check_weights
from training.dlp.router_batches import BatchSource, TextBatch, plain_batch
from training.dlp.router_config import (
    RouterProgress,
    RouterTrainingConfig,
    RouterTrainReport,
)
from training.dlp.router_data import (
    FOLLOW_UP,
    LabelledText,
    digest_labelled,
    read_labelled,
    split_dev,
)
from training.dlp.router_network import Parameters, initial_parameters, logits
from training.interrupt import delayed_interrupt
from training.optimizer import load_moments, moments
from training.schedule import learning_rate

_DEV_BATCH = 256
_BETAS = (0.9, 0.99)


def train_router(
    config: RouterTrainingConfig, progress: Callable[[RouterProgress], None]
) -> RouterTrainReport:
    """Train a router over the labels found in the data and write its artifact to `config.out`.

    Candidates are the labels in alphabetical order, the base ("") first. `progress` is called
    after every step. A checkpoint is written after every epoch, and after the step that SIGINT or
    SIGTERM came in; it is removed at the end. A run that diverges leaves nothing.

    Raises:
        TrainingDataError: a line of the data is wrong, or there is only one label.
        ConfigError: `config.out` cannot be written, or holds a result or a checkpoint that is not
            to be replaced, or one of another run; or the training diverges.
        KeyboardInterrupt: after the step that the signal came in.
    """
    started = time.monotonic()
    claim_folder(config.out, overwrite=config.overwrite, resume=config.resume)
    names = (config.base_label, config.follow_up_label)
    examples = read_labelled(config.data, *names)
    held_out = read_labelled(config.held_out, *names) if config.held_out else []
    labels = {example.label for example in examples}
    candidates = tuple(sorted(labels - {FOLLOW_UP}))
    classes = (FOLLOW_UP, *candidates) if FOLLOW_UP in labels else candidates
    config = _with_outputs(config, classes)
    _check_labels(config, candidates, held_out)
    train, dev = split_dev(examples, config.dev_share, config.seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or threads)
    try:
        state = _run(config, classes, train, dev, digest_labelled(examples), progress)
        weights = {name: weight.half() for name, weight in state.best_weights.items()}
        check_weights(weights, step=state.step, rate=config.learning_rate)
    except Diverged:
        drop_checkpoint(config.out)
        raise
    finally:
        torch.set_num_threads(threads)
    manifest = RouterManifest(
        kind=KIND,
        candidates=candidates,
        hyperparameters=config.hyperparameters.model_dump(mode="json"),
        data_digest=digest_labelled(examples),
    )
    tensors = {name: weight.numpy() for name, weight in weights.items()}
    draft = DlpRouter.from_tensors("draft", manifest, tensors)
    dev_accuracy, _, fan_out = measure(draft, dev)
    metrics = {"dev_accuracy": dev_accuracy}
    held_out_accuracy: float | None = None
    by_label: tuple[tuple[str, float], ...] = ()
    if held_out:
        held_out_accuracy, by_label, fan_out = measure(draft, held_out)
        metrics["held_out_accuracy"] = held_out_accuracy
    metrics["mean_fan_out"] = fan_out
    manifest = manifest.model_copy(update={"metrics": metrics})
    with writing(config.out):
        manifest = save_artifact(config.out, manifest, tensors)
        load_artifact(config.out, kind=KIND, aliases=candidates, base_digest=None)
    return RouterTrainReport(
        path=config.out,
        version=manifest.version,
        candidates=candidates,
        parameters=sum(tensor.size for tensor in tensors.values()),
        train_examples=len(train),
        dev_examples=len(dev),
        steps=state.step,
        best_step=state.best_step,
        dev_accuracy=dev_accuracy,
        held_out_accuracy=held_out_accuracy,
        held_out_by_label=by_label,
        mean_fan_out=fan_out,
        seconds=time.monotonic() - started,
    )


def measure(
    router: DlpRouter, examples: Sequence[LabelledText]
) -> tuple[float, tuple[tuple[str, float], ...], float]:
    """Measure accuracy, accuracy by label, and mean number of kept candidates, as served.

    Texts that continue a turn before have no answer of their own and are left out.
    """
    examples = [example for example in examples if example.label != FOLLOW_UP]
    allowed = frozenset(router.candidates)
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    kept = 0
    for example in examples:
        scores = router.route(example.text, allowed).scores
        likeliest = max(scores, key=lambda score: score.probability)
        right[example.label] += likeliest.alias == example.label
        total[example.label] += 1
        kept += sum(score.kept for score in scores)
    by_label = tuple((label, right[label] / total[label]) for label in sorted(total))
    return right.total() / total.total(), by_label, kept / total.total()


def _run(
    config: RouterTrainingConfig,
    classes: tuple[str, ...],
    train: list[LabelledText],
    dev: list[LabelledText],
    data_digest: str,
    progress: Callable[[RouterProgress], None],
) -> TrainState:
    """Train until the last epoch or until the dev loss has stopped falling.

    Raises:
        Diverged: a loss is not finite.
        KeyboardInterrupt: after the step that a signal came in.
    """
    source = BatchSource(train, classes, config)
    epoch_steps = -(-len(train) // source.batch_size)
    total = epoch_steps * config.epochs
    checkpoint = config.out / CHECKPOINT_FILE
    state = _start(config, classes, data_digest, checkpoint)
    parameters = {name: w.clone().requires_grad_() for name, w in state.weights.items()}
    optimizer = torch.optim.AdamW(
        list(parameters.values()), betas=_BETAS, weight_decay=config.weight_decay
    )
    load_moments(optimizer, parameters, state.moments)
    with delayed_interrupt() as interrupted:
        while state.step < total and state.evaluations_without_gain < config.patience:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    state.step, peak=config.learning_rate, warmup=config.warmup_steps, total=total
                )
            loss = _step(config, optimizer, parameters, source.batch(state.step), state.step + 1)
            state.step += 1
            state.losses.append(loss)
            at = RouterProgress(state.step, total, 1 + (state.step - 1) // epoch_steps, loss)
            if state.step % epoch_steps == 0:
                dev_loss, accuracy = _evaluate(config, classes, parameters, dev)
                check_loss(dev_loss, "dev", step=state.step, rate=config.learning_rate)
                _record(state, optimizer, parameters, dev_loss)
                save_state(checkpoint, state)
                at = replace(at, dev_loss=dev_loss, dev_accuracy=accuracy)
            progress(at)
            if interrupted() and state.step < total:
                _keep(state, optimizer, parameters)
                save_state(checkpoint, state)
                raise KeyboardInterrupt
    return state


def _step(
    config: RouterTrainingConfig,
    optimizer: torch.optim.Optimizer,
    parameters: Parameters,
    batch: TextBatch,
    step: int,
) -> float:
    """Step the optimiser once; returns the loss before it."""
    loss = functional.cross_entropy(
        logits(parameters, batch.ids, batch.mask),
        batch.targets,
        label_smoothing=config.label_smoothing,
    )
    check_loss(loss.item(), "training", step=step, rate=config.learning_rate)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.item()


def _start(
    config: RouterTrainingConfig,
    classes: tuple[str, ...],
    data_digest: str,
    checkpoint: Path,
) -> TrainState:
    excluded = {"data", "out", "held_out", "resume", "overwrite", "threads"}
    settings = config.model_dump_json(exclude=excluded)
    fingerprint = hashlib.sha256(f"{settings}\n{data_digest}".encode()).hexdigest()
    if config.resume and checkpoint.exists():
        return load_state(checkpoint, fingerprint)
    checkpoint.unlink(missing_ok=True)
    generator = torch.Generator().manual_seed(config.seed)
    fresh = initial_parameters(config.hyperparameters, len(classes), generator)
    return TrainState(fingerprint, weights={name: p.detach() for name, p in fresh.items()})


def _keep(state: TrainState, optimizer: torch.optim.Optimizer, parameters: Parameters) -> None:
    """Update the state after a step."""
    state.weights = {name: p.detach().clone() for name, p in parameters.items()}
    state.moments = moments(optimizer, parameters)


def _record(
    state: TrainState,
    optimizer: torch.optim.Optimizer,
    parameters: Parameters,
    dev_loss: float,
) -> None:
    """Update the state after an epoch."""
    _keep(state, optimizer, parameters)
    if state.best_loss is None or dev_loss < state.best_loss:
        state.best_loss, state.best_step = dev_loss, state.step
        state.best_weights = {name: weight.clone() for name, weight in state.weights.items()}
        state.evaluations_without_gain = 0
    else:
        state.evaluations_without_gain += 1


@torch.no_grad()
def _evaluate(
    config: RouterTrainingConfig,
    classes: tuple[str, ...],
    parameters: Parameters,
    dev: Sequence[LabelledText],
) -> tuple[float, float]:
    """Compute mean loss and accuracy over the dev texts."""
    loss = 0.0
    right = 0
    for start in range(0, len(dev), _DEV_BATCH):
        chunk = dev[start : start + _DEV_BATCH]
        batch = plain_batch(chunk, classes, config.hyperparameters.features)
        u = logits(parameters, batch.ids, batch.mask)
        loss += functional.cross_entropy(u, batch.targets, reduction="sum").item()
        right += int((u.argmax(dim=1) == batch.targets.argmax(dim=1)).sum())
    return loss / len(dev), right / len(dev)


def _with_outputs(config: RouterTrainingConfig, classes: tuple[str, ...]) -> RouterTrainingConfig:
    follow_ups = FOLLOW_UP in classes
    trained = config.hyperparameters.model_copy(update={"follow_ups": follow_ups})
    return config.model_copy(update={"hyperparameters": trained})


def _check_labels(
    config: RouterTrainingConfig, candidates: tuple[str, ...], held_out: Sequence[LabelledText]
) -> None:
    if len(candidates) < 2:
        raise TrainingDataError(f"{config.data}: one label only; a router chooses among several")
    asked = "base_label" in config.model_fields_set and config.base_label is not None
    if asked and BASE_ALIAS not in candidates:
        raise TrainingDataError(
            f"base_label: expected a label of {config.data}, found {config.base_label!r}; there "
            f"are: {', '.join(candidates)}"
        )
    strange = sorted({example.label for example in held_out} - {*candidates, FOLLOW_UP})
    if strange:
        raise TrainingDataError(
            f"{config.held_out}: labels that training does not have: {', '.join(strange)}"
        )
