"""``braid adapters convert``: its files, and its refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

STEM = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def pissa(tmp_path: Path) -> tuple[Path, Path]:
    """(trained, initial) of rank 2."""
    made = []
    for name, init, value in (("trained", "pissa", 2.0), ("initial", True, 1.0)):
        folder = tmp_path / name
        folder.mkdir()
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
        (folder / "adapter_config.json").write_text(
            json.dumps({**config, "init_lora_weights": init})
        )
        tensors = {
            f"{STEM}.lora_A.weight": torch.full((2, 8), value),
            f"{STEM}.lora_B.weight": torch.full((8, 2), value),
        }
        save_file(tensors, folder / "adapter_model.safetensors")
        made.append(folder)
    return made[0], made[1]


def test_a_plain_lora_of_twice_the_rank(
    braid: Callable[..., Any], pissa: tuple[Path, Path], tmp_path: Path
) -> None:
    trained, initial = pissa
    out = tmp_path / "out"
    words = ("adapters", "convert", str(trained), str(out), "--initial", str(initial))
    result = braid(*words)
    assert result.exit_code == 0, result.output
    assert "rank 4" in result.stdout
    found = load_file(out / "adapter_model.safetensors")
    assert found[f"{STEM}.lora_A.weight"].sum(dim=1).tolist() == [16, 16, 8, 8]
    assert found[f"{STEM}.lora_B.weight"].sum(dim=0).tolist() == [16, 16, -8, -8]
    again = braid(*words)
    assert again.exit_code != 0
    assert "--overwrite" in again.stderr
    assert braid(*words, "--overwrite").exit_code == 0


def test_a_plain_lora_needs_no_conversion(
    braid: Callable[..., Any], pissa: tuple[Path, Path], tmp_path: Path
) -> None:
    _, initial = pissa
    result = braid(
        "adapters", "convert", str(initial), str(tmp_path / "o"), "--initial", str(initial)
    )
    assert result.exit_code != 0
    assert "found a plain LoRA" in " ".join(result.stderr.split())
