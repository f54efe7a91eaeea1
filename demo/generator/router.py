"""The demo's router: one class per demo skill, and the base for everything else.

``python -m demo.generator.router OUT`` trains it (two to three minutes on one core).
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from demo.generator.datasets import generate
from demo.generator.router_texts import FOLLOW_UP, router_texts
from demo.generator.skills import GENERAL, SKILLS
from demo.generator.wordings import held_back_texts
from router_service.dlp.dlp_schema import DlpHyperparameters
from router_service.routers.selection import SelectionConfig
from training.dlp.router_config import (
    RouterProgress,
    RouterTrainingConfig,
    RouterTrainReport,
)
from training.dlp.train_router import train_router

HELD_OUT_PER_CLASS = 200
EPOCHS = 3
MARGIN = 0.1
"""Chosen on the development file of human wordings: of 0, 0.1, ... 0.6 the largest that costs no
own skill there."""


def write_router_data(folder: Path, seed: int) -> tuple[Path, Path]:
    """Write one file of prompts per class; returns the train and the held-out folder.

    Held-out prompts come from templates that the train folder does not have. Turns that continue
    the one before have a file of their own, of the label `FOLLOW_UP`.
    """
    train, held_out = folder / "train", folder / "held_out"
    for target in (train, held_out):
        target.mkdir(parents=True, exist_ok=True)
    for name, texts in router_texts(seed, held_back_texts()).items():
        _write(train / f"{name}.jsonl", texts)
    for name in (*SKILLS, GENERAL.name):
        examples = generate(name, "heldout", HELD_OUT_PER_CLASS, seed)
        _write(held_out / f"{name}.jsonl", [example.prompt for example in examples])
    return train, held_out


def train_demo_router(
    out: Path,
    progress: Callable[[RouterProgress], None],
    *,
    seed: int = 0,
    threads: int = 0,
    overwrite: bool = False,
) -> RouterTrainReport:
    """Train the router over the demo's skills and write it to `out`."""
    with tempfile.TemporaryDirectory() as folder:
        train, held_out = write_router_data(Path(folder), seed)
        config = RouterTrainingConfig(
            data=train,
            held_out=held_out,
            out=out,
            epochs=EPOCHS,
            hyperparameters=DlpHyperparameters(selection=SelectionConfig(margin=MARGIN)),
            base_label=GENERAL.name,
            follow_up_label=FOLLOW_UP,
            seed=seed,
            threads=threads,
            overwrite=overwrite,
        )
        return train_router(config, progress)


def _write(path: Path, prompts: Iterable[str]) -> None:
    lines = (json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in prompts)
    path.write_text("".join(lines), encoding="utf-8")


def _show(progress: RouterProgress) -> None:
    if progress.dev_loss is not None:
        print(
            f"epoch {progress.epoch}: dev loss {progress.dev_loss:.4f}, "
            f"dev accuracy {progress.dev_accuracy:.4f}"
        )


def main() -> None:
    """Run the command of this module."""
    parser = argparse.ArgumentParser(description="Train the demo's router.")
    parser.add_argument("out", type=Path, help="folder for the router")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--overwrite", action="store_true")
    arguments = parser.parse_args()
    report = train_demo_router(
        arguments.out,
        _show,
        seed=arguments.seed,
        threads=arguments.threads,
        overwrite=arguments.overwrite,
    )
    print(f"held-out accuracy {report.held_out_accuracy}, mean fan-out {report.mean_fan_out:.3f}")
    for label, accuracy in report.held_out_by_label:
        print(f"  {label or 'base'}: {accuracy:.3f}")


if __name__ == "__main__":
    main()
