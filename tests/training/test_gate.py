import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cluster.adapters.format.manifest import read_manifest
from cluster.adapters.loader import load_adapter
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.base_model.source import ModelLocation
from cluster.config import AdapterConfig
from cluster.errors import AdapterError, ConfigError
from router_service.artifacts.router_artifact import MANIFEST_FILE, TENSOR_FILE
from router_service.flow.flow_artifact import load_gate
from router_service.flow.gate import FlowGate
from tests.support.peft_oracle import ALL_MODULES, WeightedPeft, make_adapters
from training.base_model import linear_shapes
from training.config import GateTrainingConfig
from training.flow.train_gate import train_gate
from training.flow.weighted_lora import weigh_adapters
from training.jsonl import Example, write_examples
from training.run import TrainProgress

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

OPTIONS: dict[str, dict[str, Any]] = {
    "language": {"r": 4, "lora_alpha": 8, "target_modules": list(ALL_MODULES)},
    "task": {"r": 2, "lora_alpha": 1, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "style": {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": list(ALL_MODULES),
        "rank_pattern": {"k_proj": 6},
        "layers_to_transform": [1],
    },
}
EXAMPLES = [
    Example(f"say {word}", word[::-1]) for word in ("ab", "cd", "ef", "gh", "ij", "kl", "mn", "op")
]


class Interrupted(Exception):
    """Stands for Ctrl-C between two steps."""


def load_base(base: ModelLocation) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def adapters(chat_base: ModelLocation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of adapters of different ranks, scales and modules."""
    folder = tmp_path_factory.mktemp("adapters")
    make_adapters(load_base(chat_base), OPTIONS, folder)
    return folder


@pytest.fixture
def settings(tmp_path: Path, chat_base: ModelLocation, adapters: Path) -> dict[str, Any]:
    data = tmp_path / "data.jsonl"
    write_examples(data, EXAMPLES)
    return {
        "data": data,
        "out": tmp_path / "gate",
        "base": str(chat_base.path),
        "cache_dir": tmp_path / "cache",
        "adapters": [adapters / name for name in ("language", "task")],
        "epochs": 2,
        "batch_size": 2,
        "threads": 1,
        "dev_examples": 2,
        "eval_every": 2,
        "checkpoint_every": 2,
    }


def test_one_adapter_under_two_names_is_refused_before_training(
    settings: dict[str, Any], adapters: Path, tmp_path: Path
) -> None:
    shutil.copytree(adapters / "task", tmp_path / "twin")
    paths = [adapters / "task", tmp_path / "twin"]
    with pytest.raises(ConfigError, match=r"adapters: 'task' and 'twin' are the same adapter"):
        train_gate(GateTrainingConfig(**{**settings, "adapters": paths}))


def stop_at(step: int) -> Any:
    def progress(p: TrainProgress) -> None:
        if p.step == step:
            raise Interrupted

    return progress


def test_the_trained_model_is_pefts_with_weights_per_token(
    chat_base: ModelLocation, tmp_path: Path
) -> None:
    order = ("style", "language", "task")
    peft_model = make_adapters(load_base(chat_base), OPTIONS, tmp_path)
    generator = torch.Generator().manual_seed(2)
    gate = FlowGate(
        torch.randn(2, 3, 32, generator=generator), torch.randn(2, 3, generator=generator)
    )
    base = load_base(chat_base)
    shapes = BaseShapes(chat_base.digest, linear_shapes(base))
    loaded = [load_adapter(tmp_path / name, shapes, AdapterConfig()) for name in order]
    tokens = list(range(2, 40))
    with torch.no_grad():
        plain = base(torch.tensor([tokens])).logits[0]
        weigh_adapters(base, loaded, lambda layer, x: gate.weights(layer, None, x))
        found = base(torch.tensor([tokens])).logits[0]
    oracle = WeightedPeft(peft_model, order, lambda layer, x: gate.weights(layer, None, x))
    expected = oracle.logits(tokens)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-2)


def test_a_run_lowers_the_dev_loss_and_writes_what_it_kept(
    settings: dict[str, Any], chat_base: ModelLocation, adapters: Path
) -> None:
    config = GateTrainingConfig(**{**settings, "epochs": 8, "learning_rate": 0.05, "patience": 99})
    seen: list[TrainProgress] = []
    report = train_gate(config, seen.append)
    assert report.steps == 8 * 3
    assert report.dev_loss is not None
    assert report.dev_loss < (seen[1].dev_loss or 0)
    loaded = load_gate(report.out, aliases={"language", "task"}, base_digest=chat_base.digest)
    assert loaded.manifest.candidates == ("language", "task")
    assert loaded.manifest.adapter_digests == {
        name: read_manifest(adapters / name)[0].digest for name in ("language", "task")
    }
    assert (loaded.hyperparameters.layers, loaded.hyperparameters.hidden_size) == (2, 32)
    assert report.bytes == (report.out / TENSOR_FILE).stat().st_size
    assert str(chat_base.path) not in (report.out / MANIFEST_FILE).read_text()


@pytest.mark.parametrize("target", [None, "language"])
def test_an_untrained_gate_is_the_target_alone(
    settings: dict[str, Any], target: str | None
) -> None:
    tiny = {**settings, "learning_rate": 1e-12, "weight_decay": 0.0, "target": target}
    gate = load_gate(
        train_gate(GateTrainingConfig(**tiny)).out, aliases={"language", "task"}, base_digest=None
    ).gate()
    wanted = [1.0, 0.0] if target == "language" else [0.0, 1.0]
    w = gate.weights(1, None, torch.randn(3, 32))
    torch.testing.assert_close(w, torch.tensor([wanted] * 3), atol=1e-6, rtol=0)


def test_a_resumed_run_ends_like_an_uninterrupted_one(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    whole = train_gate(GateTrainingConfig(**{**settings, "out": tmp_path / "whole"}))
    with pytest.raises(Interrupted):
        train_gate(GateTrainingConfig(**settings), stop_at(3))
    resumed = train_gate(GateTrainingConfig(**settings, resume=True))
    for name in (MANIFEST_FILE, TENSOR_FILE):
        assert (whole.out / name).read_bytes() == (resumed.out / name).read_bytes()
    assert sorted(p.name for p in resumed.out.iterdir()) == [MANIFEST_FILE, TENSOR_FILE]


def test_a_checkpoint_over_other_adapters_is_refused(
    settings: dict[str, Any], adapters: Path
) -> None:
    with pytest.raises(Interrupted):
        train_gate(GateTrainingConfig(**settings), stop_at(3))
    other = [adapters / name for name in ("task", "language")]
    with pytest.raises(ConfigError, match="other settings"):
        train_gate(GateTrainingConfig(**{**settings, "adapters": other}, resume=True))


def test_what_cannot_be_is_refused(
    settings: dict[str, Any], adapters: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="'poetry' is none of the adapters language, task"):
        train_gate(GateTrainingConfig(**settings, target="poetry"))
    twice = [adapters / "task", adapters / "task"]
    with pytest.raises(ConfigError, match="one name"):
        train_gate(GateTrainingConfig(**{**settings, "adapters": twice}))
    foreign = tmp_path / "task"
    foreign.mkdir()
    for file in (adapters / "task").iterdir():
        (foreign / file.name).write_bytes(file.read_bytes())
    (foreign / "manifest.json").write_text(json.dumps({"base_digest": "another"}))
    with pytest.raises(AdapterError, match="another"):
        train_gate(GateTrainingConfig(**{**settings, "adapters": [foreign, adapters / "language"]}))


def test_adapters_of_the_bases_name_are_taken_where_asked(
    settings: dict[str, Any], adapters: Path, chat_base: ModelLocation, tmp_path: Path
) -> None:
    """Two copies of one base may differ in a digest, as a quantised one does."""
    for name in ("language", "task"):
        folder = tmp_path / name
        shutil.copytree(adapters / name, folder)
        (folder / "manifest.json").write_text(json.dumps({"base_digest": "a copy"}))
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = chat_base.model_id
        (folder / "adapter_config.json").write_text(json.dumps(config))
    settings |= {"adapters": [tmp_path / name for name in ("language", "task")], "epochs": 1}
    with pytest.raises(AdapterError, match="a copy"):
        train_gate(GateTrainingConfig(**settings))
    report = train_gate(GateTrainingConfig(**settings, base_check="name"))
    assert (report.out / TENSOR_FILE).exists()


def test_the_softmax_that_overflows_is_an_error(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the training loss is nan"):
        train_gate(GateTrainingConfig(**settings, temperature=1e-45))
    assert not settings["out"].exists()


def test_an_adapter_that_is_read_is_not_replaced(settings: dict[str, Any], adapters: Path) -> None:
    config = GateTrainingConfig(**{**settings, "out": adapters / "task"}, overwrite=True)
    with pytest.raises(ConfigError, match="a folder of its own"):
        train_gate(config)
    assert (adapters / "task" / "adapter_config.json").exists()


def test_the_default_learning_rate_is_the_measured_one(settings: dict[str, Any]) -> None:
    assert GateTrainingConfig(**settings).learning_rate == 5e-3
