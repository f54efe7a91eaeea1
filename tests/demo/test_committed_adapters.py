"""The adapters in `demo/adapters` are complete, small, and say what they were trained on."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from cluster.base_model.source import QUICKSTART_MODEL
from demo.generator.build import STEPS
from demo.generator.results import read_results
from demo.generator.skills import SKILLS

ROOT = Path(__file__).parents[2]
ADAPTERS = ROOT / "demo" / "adapters"
MAX_BYTES = 2_000_000


def _read(skill: str, name: str) -> Any:
    return json.loads((ADAPTERS / skill / name).read_text())


def test_every_skill_has_its_adapter() -> None:
    assert {folder.name for folder in ADAPTERS.iterdir()} >= set(SKILLS)
    assert set(STEPS) == set(SKILLS)


@pytest.mark.parametrize("skill", SKILLS)
def test_the_weights_are_small_and_bf16(skill: str) -> None:
    path = ADAPTERS / skill / "adapter_model.safetensors"
    assert path.stat().st_size < MAX_BYTES
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        assert {file.get_slice(name).get_dtype() for name in names} == {"BF16"}
    assert len(names) == 30 * 4 * 2


@pytest.mark.parametrize("skill", SKILLS)
def test_the_manifest_names_the_base_and_the_training(skill: str) -> None:
    manifest = _read(skill, "manifest.json")
    assert manifest["base_model"] == QUICKSTART_MODEL
    assert len(bytes.fromhex(manifest["base_digest"])) == 32
    assert manifest["description"] == SKILLS[skill].description
    assert manifest["training"]["steps"] == STEPS[skill]


@pytest.mark.parametrize("skill", SKILLS)
def test_the_config_is_plain_lora_without_paths_of_a_machine(skill: str) -> None:
    config = _read(skill, "adapter_config.json")
    assert config["base_model_name_or_path"] == QUICKSTART_MODEL
    assert config["r"] == 8
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert sorted(p.name for p in (ADAPTERS / skill).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    ]


def test_all_adapters_are_of_one_base_and_beat_it_clearly() -> None:
    results = read_results(ROOT / "docs" / "results" / "demo-skills.json")
    assert results is not None
    digests = {_read(skill, "manifest.json")["base_digest"] for skill in SKILLS}
    assert digests == {results.base_digest}
    for result in results.skills.values():
        assert result.n >= 40
        assert (result.adapter - result.base) / result.n >= 0.5
