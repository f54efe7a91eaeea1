"""Adapters as files: what PEFT computes with them is what it computes with the original."""

import gc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cluster.adapters.loader import LoraTensors
from cluster.domain.adapter import AdapterManifest
from cluster.domain.ids import AdapterDigest
from cluster.engine.hosted import adapter_files
from cluster.engine.hosted.adapter_files import AdapterFiles
from cluster.errors import AdapterNotFinite

MANIFEST = AdapterManifest(
    AdapterDigest("d"), 4, 8.0, False, ("q_proj",), ("q_proj",), 4, 0, None, None
)


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(adapter_files, "MEMORY", tmp_path)
    return tmp_path


def lora(rank: int, scaling: float) -> LoraTensors:
    return LoraTensors(torch.ones(rank, 3), torch.full((5, rank), 2.0), scaling)


def test_scaling_is_in_b_and_ranks_are_as_they_were() -> None:
    files = AdapterFiles(torch.bfloat16)
    written = files.write(MANIFEST, {"a.q_proj": lora(4, 0.5), "a.k_proj": lora(2, 3.0)})
    tensors = load_file(written.folder / "adapter_model.safetensors")
    b = tensors["base_model.model.a.q_proj.lora_B.weight"]
    assert (b.dtype, tuple(b.shape), float(b[0, 0])) == (torch.bfloat16, (5, 4), 1.0)
    assert float(tensors["base_model.model.a.k_proj.lora_B.weight"][0, 0]) == 6.0
    assert written.nbytes == 2 * (4 * (3 + 5) + 2 * (3 + 5))
    config = (written.folder / "adapter_config.json").read_text()
    assert '"r": 4, "lora_alpha": 4, "rank_pattern": {"a.k_proj": 2}' in config
    files.close()


def test_what_becomes_infinite_is_refused() -> None:
    files = AdapterFiles(torch.float16)
    with pytest.raises(AdapterNotFinite, match=r"a\.q_proj: B"):
        files.write(MANIFEST, {"a.q_proj": lora(4, 1e6)})
    files.close()


def test_files_go_with_the_adapter_and_all_with_the_engine(memory: Path) -> None:
    files = AdapterFiles(torch.float32)
    first = files.write(MANIFEST, {"q_proj": lora(4, 1.0)})
    second = files.write(MANIFEST, {"q_proj": lora(4, 1.0)})
    gone, kept = first.folder, second.folder
    del first
    gc.collect()
    assert not gone.exists()
    assert kept.exists()
    files.close()
    assert list(memory.iterdir()) == []


def test_what_a_killed_engine_left_is_removed(memory: Path) -> None:
    alive = AdapterFiles(torch.float32)
    left = memory / "braid-adapters-left"
    left.mkdir()
    (left / "lock").touch()
    files = AdapterFiles(torch.float32)
    assert not left.exists()
    assert len(list(memory.iterdir())) == 2
    alive.close()
    files.close()
