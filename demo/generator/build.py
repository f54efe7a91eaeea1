"""Rebuild the demo from nothing: datasets, then one adapter per skill."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from demo.generator.datasets import write_datasets
from demo.generator.skills import SKILLS
from router_service.artifacts.outputs import CHECKPOINT_FILE
from training.adapter import train_adapter
from training.config import AdapterTrainingConfig
from training.export import WEIGHTS_FILE
from training.run import TrainProgress, TrainReport

DEMO_SEED = 0
N_TRAIN = 2000
STEPS: Mapping[str, int] = {
    "cron": 96,
    "dates": 36,
    "equations": 60,
    "json": 60,
    "shell": 80,
    "sql": 80,
    "tickets": 40,
}


def build_adapters(
    out_dir: Path,
    cache_dir: Path,
    *,
    skills: tuple[str, ...] = tuple(SKILLS),
    threads: int = 0,
    resume: bool = False,
    progress: Callable[[str, TrainProgress], None] | None = None,
) -> dict[str, TrainReport]:
    """Write the datasets and train `<out_dir>/<skill>` for each of `skills`, one after another.

    An existing adapter is replaced; with `resume` it is kept, and an interrupted training
    continues. `progress` gets the skill and its training's progress. About two minutes a skill on
    two idle cores.

    Returns:
        The reports of the trainings that ran, by skill.
    """
    with tempfile.TemporaryDirectory(prefix="braid-demo-") as folder:
        data = write_datasets(Path(folder), DEMO_SEED, n_train=N_TRAIN)
        reports = {}
        for skill in skills:
            if resume and _is_complete(out_dir / skill):
                continue
            config = AdapterTrainingConfig(
                data=data[skill][0],
                out=out_dir / skill,
                cache_dir=cache_dir,
                description=SKILLS[skill].description,
                steps=STEPS[skill],
                threads=threads,
                resume=resume,
                overwrite=True,
            )
            reports[skill] = train_adapter(config, _for_skill(progress, skill))
    return reports


def _is_complete(adapter: Path) -> bool:
    return (adapter / WEIGHTS_FILE).exists() and not (adapter / CHECKPOINT_FILE).exists()


def _for_skill(
    progress: Callable[[str, TrainProgress], None] | None, skill: str
) -> Callable[[TrainProgress], None] | None:
    if progress is None:
        return None
    return lambda step: progress(skill, step)
