"""Merged adapters against PEFT's own merges, and through PEFT's own loader."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from cluster.adapters.format.manifest import read_manifest
from cluster.adapters.loader import load_adapter
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AdapterConfig
from cluster.errors import AdapterError, AdapterNotFinite, ConfigError
from router_service.merging.merge import merge, read_adapter
from tests.support.peft_oracle import ALL_MODULES, make_adapters
from training.base_model import linear_shapes
from training.merging.merged_adapter import export_merge

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": list(ALL_MODULES)},
    "other": {"r": 4, "lora_alpha": 2, "target_modules": list(ALL_MODULES)},
    "same": {"r": 4, "lora_alpha": 8, "target_modules": list(ALL_MODULES)},
    "narrow": {
        "r": 3,
        "lora_alpha": 5,
        "use_rslora": True,
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"q_proj": 2},
        "layers_to_transform": [1],
    },
}
MIXTURES = [
    {"plain": 0.7, "other": 0.3},
    {"plain": 1.3, "narrow": -0.6},
    {"plain": 0.4, "other": -0.5, "narrow": 1.1},
]
TOKENS = torch.tensor([[5, 17, 3, 80, 41, 2, 2, 60]])


class Oracle:
    def __init__(self, model_dir: Path, folder: Path) -> None:
        self._model_dir = model_dir
        self.folder = folder
        self.model = make_adapters(self.base(), OPTIONS, folder)

    def base(self) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(
            self._model_dir, dtype=torch.float32
        ).eval()

    def merged_logits(self, mixture: Mapping[str, float], how: str) -> torch.Tensor:
        name = f"{how}-{len(self.model.peft_config)}"
        self.model.add_weighted_adapter(
            list(mixture), list(mixture.values()), name, combination_type=how
        )
        self.model.set_adapter(name)
        with torch.inference_mode():
            return self.model(TOKENS).logits

    def logits_of(self, folder: Path) -> torch.Tensor:
        """Compute logits through PEFT's loader, on a fresh base."""
        model = peft.PeftModel.from_pretrained(self.base(), folder).eval()
        with torch.inference_mode():
            return model(TOKENS).logits

    def adapters(self, *names: str) -> dict[str, Any]:
        return {name: read_adapter(self.folder / name) for name in names}


@pytest.fixture(scope="module")
def oracle(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return Oracle(tiny_model("llama"), tmp_path_factory.mktemp("adapters"))


@pytest.mark.parametrize("mixture", MIXTURES, ids=str)
def test_cat_equals_pefts_and_can_be_loaded_by_both(
    oracle: Oracle, tmp_path: Path, mixture: dict[str, float]
) -> None:
    export_merge(tmp_path, oracle.adapters(*mixture), mixture, "cat")
    torch.testing.assert_close(
        oracle.logits_of(tmp_path), oracle.merged_logits(mixture, "cat"), rtol=1e-4, atol=1e-4
    )
    shapes = BaseShapes("served", linear_shapes(oracle.base()))
    loaded = load_adapter(tmp_path, shapes, AdapterConfig())
    for path, tensors in loaded.tensors.items():
        exact = sum(
            weight * t.scaling * (t.B.double() @ t.A.double())
            for name, weight in mixture.items()
            if (t := oracle.adapters(name)[name].tensors.get(path)) is not None
        )
        found = tensors.scaling * (tensors.B.double() @ tensors.A.double())
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mixture", [{"plain": 0.7, "other": 0.3}, {"plain": 0.5, "other": -0.8}])
def test_linear_equals_pefts_and_is_not_the_mixture(
    oracle: Oracle, tmp_path: Path, mixture: dict[str, float]
) -> None:
    export_merge(tmp_path, oracle.adapters(*mixture), mixture, "linear")
    found = oracle.logits_of(tmp_path)
    torch.testing.assert_close(found, oracle.merged_logits(mixture, "linear"), rtol=1e-4, atol=1e-4)
    assert (found - oracle.merged_logits(mixture, "cat")).abs().max() > 0.05


def test_factors_are_lorahubs_sums(oracle: Oracle) -> None:
    adapters = oracle.adapters("plain", "same")
    merged = merge(list(adapters.values()), [0.5, -1.5], "factors")
    for path, (a, b, scaling) in merged.items():
        one, two = (adapter.tensors[path] for adapter in adapters.values())
        torch.testing.assert_close(a, 0.5 * one.A - 1.5 * two.A)
        torch.testing.assert_close(b, 0.5 * one.B - 1.5 * two.B)
        assert scaling == 2.0
    single = merge(list(adapters.values()), [1.0, 0.0], "factors")
    for path, (a, b, _) in single.items():
        assert torch.equal(a, adapters["plain"].tensors[path].A)
        assert torch.equal(b, adapters["plain"].tensors[path].B)


def test_the_manifest_says_what_was_merged(oracle: Oracle, tmp_path: Path) -> None:
    mixture = {"plain": 0.7, "narrow": -0.25}
    export_merge(tmp_path, oracle.adapters(*mixture), mixture, "cat")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["merge"]["exact"] is True
    assert manifest["merge"]["adapters"] == [
        {"name": n, "digest": read_manifest(oracle.folder / n)[0].digest, "weight": w}
        for n, w in mixture.items()
    ]
    assert manifest["description"] == "cat merge: 0.7 plain + -0.25 narrow"
    read, _ = read_manifest(tmp_path)
    assert read.max_rank == 7
    assert read.rank == 4


def test_the_same_merge_is_the_same_version(oracle: Oracle, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export_merge(tmp_path / name, oracle.adapters("plain", "other"), MIXTURES[0], "cat")
    one, two = (read_manifest(tmp_path / name)[0].digest for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("names", "method", "message"),
    [
        (("plain", "narrow"), "linear", "factors of different ranks cannot be added"),
        (("plain", "other"), "factors", "factors of different scales cannot be added"),
    ],
)
def test_what_cannot_be_added_is_refused(
    oracle: Oracle, tmp_path: Path, names: tuple[str, ...], method: Any, message: str
) -> None:
    with pytest.raises(AdapterError, match=message):
        export_merge(tmp_path, oracle.adapters(*names), dict.fromkeys(names, 1.0), method)


def test_adapters_of_two_bases_are_refused(oracle: Oracle, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export_merge(tmp_path / name, oracle.adapters("plain"), {"plain": 1.0}, "cat")
        path = tmp_path / name / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_digest": name}))
    adapters = {name: read_adapter(tmp_path / name) for name in ("one", "two")}
    with pytest.raises(AdapterError, match="different bases cannot be merged: one: one, two: two"):
        export_merge(tmp_path / "out", adapters, {"one": 1.0, "two": 1.0}, "cat")


def test_an_adapter_that_is_there_is_kept(oracle: Oracle, tmp_path: Path) -> None:
    adapters = oracle.adapters("plain")
    export_merge(tmp_path, adapters, {"plain": 1.0}, "cat")
    with pytest.raises(ConfigError, match="holds an adapter already"):
        export_merge(tmp_path, adapters, {"plain": 1.0}, "cat")
    export_merge(tmp_path, adapters, {"plain": 0.5}, "cat", overwrite=True)


@pytest.mark.parametrize("weight", [1e38, -1001.0, math.nan])
def test_a_weight_that_no_merge_can_have(oracle: Oracle, tmp_path: Path, weight: float) -> None:
    adapters = {"plain": read_adapter(oracle.folder / "plain")}
    with pytest.raises(ConfigError, match="plain="):
        export_merge(tmp_path / "out", adapters, {"plain": weight}, "cat")
    assert not (tmp_path / "out").exists()


def test_a_merge_that_is_not_finite_is_not_written(oracle: Oracle, tmp_path: Path) -> None:
    adapter = read_adapter(oracle.folder / "plain")
    path, tensors = next(iter(adapter.tensors.items()))
    huge = adapter.tensors | {path: tensors._replace(A=torch.full_like(tensors.A, 1e38))}
    adapters = {"plain": replace(adapter, tensors=huge)}
    with pytest.raises(AdapterNotFinite, match="lower the weights"):
        export_merge(tmp_path / "out", adapters, {"plain": 1000.0}, "cat")
    assert not (tmp_path / "out").exists()
