"""Training of adapters on all tasks at once, and their answers on the tasks' test examples."""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from cluster.base_model.source import ModelLocation
from cluster.engine.mixing import LAYER_MODULES
from experiments.milora.milora_tasks import MiloraTaskData, write_mixed
from experiments.milora.recorded import RecordedRouter
from router_service.artifacts.outputs import CHECKPOINT_FILE
from router_service.artifacts.router_artifact import TENSOR_FILE, adapter_versions
from router_service.milora.milora_artifact import load_milora
from router_service.routers.kind import EnginePart
from training.adapter import train_adapter
from training.config import AdapterTrainingConfig, MiloraTrainingConfig
from training.evaluation.answer_metrics import has_value
from training.evaluation.evaluation_run import SPARE_TOKENS, longest_sequence
from training.evaluation.local_engine import Asked, LocalEngine, Weights
from training.evaluation.records import Record
from training.export import MANIFEST_FILE, WEIGHTS_FILE
from training.milora.train_milora import train_milora
from training.run import TrainProgress

METHODS: dict[str, int | None] = {"lora": None, "milora-3": 3, "milora-1": 1}
"""Active modules of a layer; None is plain LoRA on all seven."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainingSize:
    """Settings that both methods train with."""

    rank: int
    steps: int
    batch_size: int
    learning_rate: float
    dev_examples: int
    eval_every: int
    patience: int


def train(
    method: str,
    tasks: Sequence[MiloraTaskData],
    out: Path,
    cache_dir: Path,
    size: TrainingSize,
    *,
    seed: int,
    threads: int,
    say: Say,
) -> None:
    """Train one adapter with the project's trainers; continues an interrupted training.

    Both have the same data, dev split, rank, scaling, steps and learning rate, and each its own
    trainer's warm-up, decay and weight decay.
    """
    if (out / WEIGHTS_FILE).exists() and not (out / CHECKPOINT_FILE).exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "train.jsonl"
        write_mixed(tasks, data, seed)
        common: dict[str, Any] = {
            "data": data,
            "out": out,
            "cache_dir": cache_dir,
            "rank": size.rank,
            "steps": size.steps,
            "batch_size": size.batch_size,
            "learning_rate": size.learning_rate,
            "dev_examples": size.dev_examples,
            "eval_every": size.eval_every,
            "patience": size.patience,
            "alpha": float(size.rank),  # scaling 1, as in MiLoRA's Eq. 1
            "seed": seed,
            "threads": threads,
            "checkpoint_every": 10,
            "resume": True,
            "overwrite": True,
        }

        def show(at: TrainProgress) -> None:
            if at.dev_loss is not None or at.step % 10 == 0:
                dev = "" if at.dev_loss is None else f", dev {at.dev_loss:.3f}"
                say(f"{out.name}: step {at.step}/{at.total}, loss {at.loss:.3f}{dev}")

        top_k = METHODS[method]
        if top_k is None:
            train_adapter(
                AdapterTrainingConfig(**common, target_modules=LAYER_MODULES),  # type: ignore[arg-type]
                show,
            )
        else:
            train_milora(MiloraTrainingConfig(**common, alias=out.name, top_k=top_k), show)


def measure(
    base: ModelLocation,
    adapter: Path | None,
    tasks: Sequence[MiloraTaskData],
    *,
    is_milora: bool,
    threads: int,
    say: Say,
) -> dict[str, Any]:
    """Count right answers and likelihoods by task, of an adapter or of the base alone."""
    started = time.process_time()
    folders = {} if adapter is None else {adapter.name: adapter}
    mixture: Weights = tuple((alias, 1.0) for alias in folders)
    recorder = None
    part = None
    if adapter is not None and is_milora:
        loaded = load_milora(adapter, aliases=set(folders), base_digest=base.digest)
        recorder = RecordedRouter(loaded.router())
        part = EnginePart(adapter_versions(adapter, loaded.manifest), router=recorder)
    records = [record for task in tasks for record in task.test]
    choices = [record.choices for record in records if record.choices]
    longest = longest_sequence(base, records, choices) + SPARE_TOKENS
    found = {}
    with LocalEngine(base, folders, threads=threads, max_model_len=longest, part=part) as engine:
        for task in tasks:
            scored = found[task.name] = _score(engine, task, mixture)
            name = "base" if adapter is None else adapter.name
            say(f"{name}: {task.name}: {sum(scored['right'])} of {len(scored['right'])} right")
    result: dict[str, Any] = {"tasks": found, "cpu_s": time.process_time() - started}
    if adapter is not None:
        result["trained"] = _trained(adapter)
    if recorder is not None:
        result["modules"] = recorder.summary()
    return result


def _score(engine: LocalEngine, task: MiloraTaskData, mixture: Weights) -> dict[str, Any]:
    """Score each test example: 1 if right, and nats and tokens of its wanted completion."""
    asked = [Asked(record.prompt, mixture) for record in task.test]
    texts = [record.choices or (record.completion,) for record in task.test]
    likelihoods = iter(
        engine.likelihoods(
            [item for item, own in zip(asked, texts, strict=True) for _ in own],
            [text for own in texts for text in own],
        )
    )
    by_text = [{text: next(likelihoods) for text in own} for own in texts]
    wanted = [own[r.completion] for own, r in zip(by_text, task.test, strict=True)]
    if task.metric == "choice":
        likeliest = [max(own, key=lambda text, of=own: of[text].logprob) for own in by_text]  # type: ignore[misc]
        right = [t == r.completion for t, r in zip(likeliest, task.test, strict=True)]
    else:
        limit = max(len(engine.completion_ids(r.completion)) for r in task.test) + SPARE_TOKENS
        answers = engine.answers(asked, limit)
        right = [_has_value(text, r) for text, r in zip(answers, task.test, strict=True)]
    return {
        "right": [int(item) for item in right],
        "nats": [-likelihood.logprob for likelihood in wanted],
        "tokens": [likelihood.tokens for likelihood in wanted],
    }


def _has_value(text: str, record: Record) -> bool:
    assert isinstance(record.answer, int | float)
    return has_value(text, record.answer)


def _trained(adapter: Path) -> dict[str, Any]:
    """Describe sizes and course of the training, from its files."""
    manifest = json.loads((adapter / MANIFEST_FILE).read_text(encoding="utf-8"))
    parameters = {
        name: sum(tensor.numel() for tensor in load_file(adapter / name).values())
        for name in (WEIGHTS_FILE, TENSOR_FILE)
        if (adapter / name).exists()
    }
    return {
        "parameters": {
            "adapter": parameters[WEIGHTS_FILE],
            "routers": parameters.get(TENSOR_FILE, 0),
        },
        **{key: manifest[key] for key in ("steps_done", "best_step", "dev_loss", "examples")},
    }
