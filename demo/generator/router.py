"""The demo's router: one class per demo skill, and the base for everything else.

``python -m demo.generator.router OUT`` trains it (about a minute on one core).
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from demo.generator.datasets import generate
from demo.generator.skills import GENERAL, SKILLS
from demo.generator.templates import Split
from router_service.training.open_prompts import OPEN_PROMPTS
from router_service.training.router import train_router
from router_service.training.router_config import (
    RouterProgress,
    RouterTrainingConfig,
    RouterTrainReport,
)

TRAIN_PER_CLASS = 1500
HELD_OUT_PER_CLASS = 200
_OPEN_PROMPT_COPIES = 8  # the varied templates are many, these are few; training varies the words


def write_router_data(folder: Path, seed: int) -> tuple[Path, Path]:
    """Write one file of prompts per class; returns the train and the held-out folder.

    Held-out prompts come from templates that the train folder does not have.
    """
    train, held_out = folder / "train", folder / "held_out"
    splits: tuple[tuple[Path, Split, int], ...] = (
        (train, "train", TRAIN_PER_CLASS),
        (held_out, "heldout", HELD_OUT_PER_CLASS),
    )
    for target, split, n in splits:
        target.mkdir(parents=True, exist_ok=True)
        for name in (*SKILLS, GENERAL.name):
            prompts = _prompts(name, split, n, seed)
            if name == GENERAL.name and split == "train":
                prompts += OPEN_PROMPTS * _OPEN_PROMPT_COPIES
            _write(target / f"{name}.jsonl", prompts)
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
            base_label=GENERAL.name,
            seed=seed,
            threads=threads,
            overwrite=overwrite,
        )
        return train_router(config, progress)


def _prompts(name: str, split: Split, n: int, seed: int) -> list[str]:
    return [example.prompt for example in generate(name, split, n, seed)]


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
    """Command line of this module."""
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
