import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cluster.adapters.format.manifest import read_manifest
from cluster.base_model.source import ModelLocation, resolve_model
from cluster.errors import ConfigError
from router_service.flow.flow_artifact import load_gate
from router_service.flow.gate_importer import import_gate
from tests.support.peft_oracle import make_adapters

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
LAYERS, K, D = 2, 2, 64


@pytest.fixture(scope="module")
def base(tiny_model: Callable[..., Path], tmp_path_factory: Any) -> ModelLocation:
    return resolve_model(str(tiny_model()), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def adapters(base: ModelLocation, tmp_path_factory: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    model = transformers.AutoModelForCausalLM.from_pretrained(base.path)
    names = ("zh", "math", "more")
    make_adapters(model, {n: {"r": 2, "target_modules": ["q_proj"]} for n in names}, folder)
    return {name: folder / name for name in names[:2]}


def published(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Return a gate file's content; a change of None takes a tensor away."""
    generator = torch.Generator().manual_seed(1)
    content: dict[str, Any] = {}
    for layer in range(LAYERS):
        prefix = f"encoder.layers.{layer}"
        content[f"{prefix}.lora_fusion_gate.weight"] = torch.randn(K, D, generator=generator).half()
        content[f"{prefix}.weight_bias"] = torch.randn(1, K, generator=generator).half()
    content |= {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in content.items() if value is not None}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def make(content: Any, name: str = "zh_math.pt") -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return make


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("zh_math.pt", None, 1.1),
        ("ru_math.pt", None, 1.1),
        ("es_math.pt", None, 1.0),
        ("zh_code.pt", None, 1.0),
        ("zh_math.pt", 0.7, 0.7),
    ],
)
def test_a_published_gate_becomes_an_artifact(
    write: Any, base: Any, adapters: Any, tmp_path: Path, name: str, given: Any, expected: float
) -> None:
    content = published()
    out = tmp_path / "out"
    import_gate(write(content, name), out, adapters=adapters, base=base, temperature=given)
    loaded = load_gate(out, aliases=adapters, base_digest=base.digest)
    assert loaded.manifest.candidates == ("zh", "math")
    assert loaded.hyperparameters.temperature == expected
    assert loaded.manifest.adapter_digests == {
        name: read_manifest(path)[0].digest for name, path in adapters.items()
    }
    x = torch.randn(3, D)
    for layer in range(LAYERS):
        weight = content[f"encoder.layers.{layer}.lora_fusion_gate.weight"].float()
        bias = content[f"encoder.layers.{layer}.weight_bias"].float()
        w = (x @ weight.T / expected).softmax(-1) + bias
        torch.testing.assert_close(loaded.gate().weights(layer, None, x), w)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({k: v for k, v in published().items() if "bias" not in k}, "no weight_bias"),
        (published(encoder__layers__1__weight_bias=None), "missing for layers 1"),
        (published(encoder__layers__1__lora_fusion_gate__weight=None), "gates of 1 layers"),
        (
            published(encoder__layers__2__lora_fusion_gate__weight=torch.zeros(K, D)),
            "gates of 3 layers",
        ),
        (published(something=torch.zeros(1)), "something: not a part of a gate"),
        (
            published(encoder__layers__1__lora_fusion_gate__weight=torch.zeros(K, D + 1)),
            "layer 1: gate of shape",
        ),
        (published(encoder__layers__0__weight_bias=torch.zeros(1, 3)), "layer 0: weight_bias"),
        (
            published(encoder__layers__0__weight_bias=torch.full((1, K), torch.nan)),
            "not finite",
        ),
        ([1, 2], "not a state dict of tensors"),
        ({"a": 1}, "not a state dict of tensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_files_are_refused(
    write: Any, base: Any, adapters: Any, tmp_path: Path, content: Any, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        import_gate(write(content), tmp_path / "out", adapters=adapters, base=base)
    assert not (tmp_path / "out" / "router.json").exists()


def test_gates_of_another_width_or_number_of_adapters_are_refused(
    write: Any, base: Any, adapters: Any, tmp_path: Path
) -> None:
    wide = {k: torch.zeros(K, 128) if "gate" in k else torch.zeros(1, K) for k in published()}
    with pytest.raises(ConfigError, match=r"\[2, 2, 128\], but .* make \[2, 2, 64\]"):
        import_gate(write(wide), tmp_path / "out", adapters=adapters, base=base)
    three = {**adapters, "more": adapters["zh"].parent / "more"}
    with pytest.raises(ConfigError, match=r"\[2, 2, 64\], but .* make \[2, 3, 64\]"):
        import_gate(write(published()), tmp_path / "out", adapters=three, base=base)


class _Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("never"),))


@pytest.mark.parametrize(
    "content",
    [b"", b"no pickle", pickle.dumps(_Exploit(), protocol=2)],
    ids=["empty", "nonsense", "code"],
)
def test_no_code_is_run(base: Any, adapters: Any, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "zh_math.pt"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="not a state dict of tensors"):
        import_gate(file, tmp_path / "out", adapters=adapters, base=base)
    assert not Path("never").exists()


def test_a_router_is_not_replaced_unasked(
    write: Any, base: Any, adapters: Any, tmp_path: Path
) -> None:
    file = write(published())
    import_gate(file, tmp_path / "out", adapters=adapters, base=base)
    with pytest.raises(ConfigError, match="holds a router already"):
        import_gate(file, tmp_path / "out", adapters=adapters, base=base)
    import_gate(file, tmp_path / "out", adapters=adapters, base=base, overwrite=True)


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-46, 1e39, math.nan, math.inf])
def test_a_temperature_that_none_can_have(
    write: Any, base: Any, adapters: Any, tmp_path: Path, temperature: float
) -> None:
    options: dict[str, Any] = {"adapters": adapters, "base": base, "temperature": temperature}
    with pytest.raises(
        ConfigError, match="temperature: expected a number from 1e-06 to 1e\\+06, found"
    ):
        import_gate(write(published()), tmp_path / "out", **options)


def test_a_folder_that_cannot_be_written_is_refused_before_the_file_is_read(
    base: Any, adapters: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="out: expected a folder that can be written"):
        import_gate(tmp_path / "none.pt", Path("/proc/x"), adapters=adapters, base=base)


def test_one_adapter_under_two_names_is_refused(
    write: Any, base: Any, adapters: Any, tmp_path: Path
) -> None:
    twice = {"zh": adapters["zh"], "chinese": adapters["zh"]}
    with pytest.raises(ConfigError, match=r"adapters: 'zh' and 'chinese' are the same adapter"):
        import_gate(write(published()), tmp_path / "out", adapters=twice, base=base)
    assert not (tmp_path / "out").exists()
