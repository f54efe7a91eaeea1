"""Gates and searched mixtures, each made by the trainer behind the project's commands."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.flow.flow_tasks import Composite, composite_examples
from router_service.artifacts.outputs import CHECKPOINT_FILE
from router_service.artifacts.router_artifact import MANIFEST_FILE, read_manifest
from training.config import GateTrainingConfig
from training.flow.train_gate import train_gate
from training.jsonl import write_examples
from training.merging.search import SearchConfig
from training.merging.search_run import MixtureSearchConfig, search_mixture

Say = Callable[[str], None]

_DEV_EXAMPLES = 20


def gate(
    task: Composite,
    out: Path,
    adapters: tuple[Path, Path],
    data: Path | None,
    cache_dir: Path,
    *,
    seed: int,
    n: int,
    epochs: int,
    learning_rate: float,
    threads: int,
    say: Say,
) -> dict[str, Any]:
    """Train a gate over (format, skill), from the skill alone; continues an interrupted one."""
    started = time.process_time()
    if not (out / MANIFEST_FILE).exists() or (out / CHECKPOINT_FILE).exists():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "data.jsonl"
            write_examples(file, composite_examples(task, n, seed, data))
            config = GateTrainingConfig(
                data=file,
                out=out,
                adapters=adapters,
                cache_dir=cache_dir,
                seed=seed,
                epochs=epochs,
                learning_rate=learning_rate,
                dev_examples=_DEV_EXAMPLES,
                threads=threads,
                resume=True,
                overwrite=True,
            )
            train_gate(
                config,
                lambda at: say(
                    f"{task.name}, gate {seed}: step {at.step}/{at.total}, loss {at.loss:.3f}"
                    + ("" if at.dev_loss is None else f", dev {at.dev_loss:.4f}")
                ),
            )
    manifest = read_manifest(out)
    training = manifest.hyperparameters["training"]
    return {
        "version": manifest.version,
        "dev_loss": training["dev_loss"],
        "steps": training["steps_done"],
        "best_step": training["best_step"],
        "cpu_s": time.process_time() - started,
    }


def searched(
    task: Composite,
    out: Path,
    adapters: tuple[Path, Path],
    data: Path | None,
    cache_dir: Path,
    *,
    seed: int,
    n: int,
    examples: int,
    steps: int,
    threads: int,
    say: Say,
) -> dict[str, Any]:
    """Search weights with ``examples`` of the same ``n`` that the seed's gate was given."""
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.jsonl"
        write_examples(file, composite_examples(task, n, seed, data))
        config = MixtureSearchConfig(
            data=file,
            adapters=adapters,
            out=out,
            cache_dir=cache_dir,
            examples=examples,
            search=SearchConfig(steps=steps, seed=seed),
            base_check="name",
            threads=threads,
            overwrite=True,
        )
        found = search_mixture(
            config,
            lambda at: say(f"{task.name}, search {seed}: {at.step}/{at.steps}, {at.loss:.3f}"),
        )
    return {
        "weights": found.weights,
        "loss": found.loss,
        "base_loss": found.base_loss,
        "average_loss": found.average_loss,
        "cpu_s": time.process_time() - started,
    }
