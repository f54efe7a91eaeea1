"""Training of a router over all tasks, its accuracy on held-out prompts, and its cost."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from demo.generator.skills import GENERAL
from experiments.dlp.dlp_tasks import load_tasks, write_router_data
from router_service.artifacts.router_artifact import load_artifact, save_artifact
from router_service.dlp.dlp_router import DlpRouter, load_dlp
from router_service.dlp.dlp_schema import KIND
from training.dlp.router_config import RouterProgress, RouterTrainingConfig
from training.dlp.train_router import train_router
from training.evaluation.answer_metrics import wilson

WIDE = 100
_NEVER = -30.0  # bias of the classes that are there only to be counted


def train_and_measure(
    data: Path | None,
    out: Path,
    *,
    seed: int,
    n_train: int,
    n_heldout: int,
    epochs: int,
    threads: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train the router of one seed into ``out`` (resumable by epoch) and measure it."""
    tasks, missing = load_tasks(data, n_train=n_train, n_heldout=n_heldout, seed=seed)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        train, heldout = write_router_data(tasks, Path(folder))
        config = RouterTrainingConfig(
            data=train,
            held_out=heldout,
            out=out,
            base_label=GENERAL.name,
            epochs=epochs,
            seed=seed,
            threads=threads,
            resume=True,
            overwrite=True,
        )

        def show(at: RouterProgress) -> None:
            if at.dev_loss is not None:
                say(f"seed {seed}, epoch {at.epoch}: dev accuracy {at.dev_accuracy:.4f}")

        report = train_router(config, show)
    n = sum(len(task.heldout) for task in tasks)
    assert report.held_out_accuracy is not None
    right = round(report.held_out_accuracy * n)
    return {
        "seed": seed,
        "tasks": [task.name for task in tasks],
        "missing": missing,
        "n_train": report.train_examples,
        "n_heldout": n,
        "accuracy": report.held_out_accuracy,
        "interval": wilson(right, n),
        "by_task": {label or GENERAL.name: share for label, share in report.held_out_by_label},
        "mean_fan_out": report.mean_fan_out,
        "parameters": report.parameters,
        "version": report.version,
        "cpu_s": time.process_time() - started,
    }


def measure_speed(router_path: Path, data: Path | None, *, rounds: int) -> dict[str, Any]:
    """Measure the milliseconds of a route on one core: as trained, and with 100 candidates.

    Wall time says what a request waits; CPU time is what the machine pays, and hardly moves when
    others use it too.
    """
    tasks, _ = load_tasks(data, n_train=1, n_heldout=20, seed=0)
    texts = [record.prompt for task in tasks for record in task.heldout]
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        wide = widen(router_path, Path(folder) / "wide")
        for path in (router_path, wide):
            router = load_any(path)
            rows[str(len(router.candidates))] = _time(router, texts, rounds)
    return {"texts": len(texts), "candidates": rows, "load_average": os.getloadavg()[0]}


def widen(path: Path, out: Path, candidates: int = WIDE) -> Path:
    """Add classes that are never chosen to a router; it answers as before."""
    if out.exists():
        shutil.rmtree(out)
    manifest, tensors = load_artifact(path, kind=KIND, aliases=_aliases(path), base_digest=None)
    extra = candidates - len(manifest.candidates)
    names = tuple(f"unused-{index:03d}" for index in range(extra))
    weight, bias = tensors["linear.3.weight"], tensors["linear.3.bias"]
    rng = np.random.default_rng(0)
    tensors["linear.3.weight"] = np.concatenate(
        [weight, rng.normal(scale=0.01, size=(weight.shape[0], extra)).astype(weight.dtype)], axis=1
    )
    tensors["linear.3.bias"] = np.concatenate([bias, np.full(extra, _NEVER, bias.dtype)])
    wider = manifest.model_copy(update={"candidates": (*manifest.candidates, *names)})
    save_artifact(out, wider, tensors)
    return out


def load_any(path: Path, **options: Any) -> DlpRouter:
    """Load a router for any adapters."""
    return load_dlp(path.name, path, aliases=_aliases(path), **options)


def _aliases(path: Path) -> frozenset[str]:
    from router_service.artifacts.router_artifact import read_manifest

    return frozenset(read_manifest(path).candidates)


def _time(router: DlpRouter, texts: list[str], rounds: int) -> dict[str, float]:
    allowed = frozenset(router.candidates)
    for text in texts[:20]:
        router.route(text, allowed)
    wall, cpu = [], []
    for _ in range(rounds):
        for text in texts:
            w, c = time.perf_counter(), time.thread_time()
            router.route(text, allowed)
            cpu.append(time.thread_time() - c)
            wall.append(time.perf_counter() - w)
    ordered = sorted(wall)
    return {
        "p50_ms": 1e3 * statistics.median(wall),
        "p99_ms": 1e3 * ordered[int(0.99 * len(ordered))],
        "cpu_ms": 1e3 * statistics.fmean(cpu),
        "routes_per_s_of_one_core": 1 / statistics.fmean(cpu),
    }
