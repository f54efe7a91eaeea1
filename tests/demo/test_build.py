from pathlib import Path

import pytest

from demo.generator import build as module
from demo.generator.build import N_TRAIN, STEPS, build_adapters
from demo.generator.skills import SKILLS
from training.config import AdapterTrainingConfig
from training.jsonl import read_examples
from training.run import TrainProgress, TrainReport


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[AdapterTrainingConfig]:
    """The settings of every training, none of which really runs."""
    configs: list[AdapterTrainingConfig] = []

    def train(config: AdapterTrainingConfig, progress: object) -> TrainReport:
        assert len(read_examples(config.data)) == N_TRAIN
        configs.append(config)
        config.out.mkdir(parents=True, exist_ok=True)
        (config.out / "adapter_model.safetensors").touch()
        if callable(progress):
            progress(TrainProgress(1, config.steps, 0.5, None, 1.0))
        return TrainReport(config.out, config.steps, config.steps, 0.5, 0.5, 1, 1, 1.0, 1)

    monkeypatch.setattr(module, "train_adapter", train)
    return configs


def test_every_skill_is_trained_on_its_own_data(
    trained: list[AdapterTrainingConfig], tmp_path: Path
) -> None:
    seen = []
    reports = build_adapters(
        tmp_path, tmp_path, progress=lambda skill, p: seen.append((skill, p.total))
    )
    assert list(reports) == list(SKILLS)
    assert {c.out.name: c.description for c in trained} == {
        name: skill.description for name, skill in SKILLS.items()
    }
    assert seen == [(skill, STEPS[skill]) for skill in SKILLS]


def test_resuming_keeps_what_is_complete(
    trained: list[AdapterTrainingConfig], tmp_path: Path
) -> None:
    build_adapters(tmp_path, tmp_path, skills=("sql", "cron"))
    (tmp_path / "cron" / "checkpoint.safetensors").touch()
    trained.clear()
    assert list(build_adapters(tmp_path, tmp_path, skills=("sql", "cron"), resume=True)) == ["cron"]
    assert list(build_adapters(tmp_path, tmp_path, skills=("sql",))) == ["sql"]
