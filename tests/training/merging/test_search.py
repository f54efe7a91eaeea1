"""The search for a mixture's weights, alone and on a tiny model."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from cluster.adapters.catalog import AdapterCatalog
from cluster.base_model.source import ModelLocation
from cluster.errors import AdapterError, ConfigError
from router_service.merging.merge import merge, read_adapter
from router_service.routers.static import load_static
from tests.support.peft_oracle import ALL_MODULES, make_adapters
from training.base_model import load_base
from training.encoding import encode_examples
from training.jsonl import Example, write_examples
from training.merging.mixture_loss import AdaptedModel
from training.merging.search import SearchConfig, SearchProgress, search
from training.merging.search_run import MixtureSearchConfig, search_mixture

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

EXAMPLES = [Example(f"say {word}", word) for word in ("ab", "cd", "ef", "gh", "ij", "kl")]


def _bowl(*centre: float) -> Callable[[tuple[float, ...]], float]:
    return lambda w: sum((a - b) ** 2 for a, b in zip(w, centre, strict=True))


def test_it_finds_the_bottom_of_a_bowl() -> None:
    config = SearchConfig(steps=300, penalty=0)
    found = search(_bowl(0.8, -0.4, 0.1), 3, config)
    assert found.weights == pytest.approx((0.8, -0.4, 0.1), abs=0.03)


def test_the_penalty_pulls_towards_nothing() -> None:
    found = search(_bowl(0.3, 0.3), 2, SearchConfig(steps=200, penalty=100))
    assert found.weights == (0.0, 0.0)
    assert found.objective == found.loss


@given(st.integers(0, 50), st.floats(0.1, 2), st.integers(1, 30), st.integers(1, 5))
def test_bounds_budget_and_repeatability(
    seed: int, bound: float, steps: int, dimensions: int
) -> None:
    config = SearchConfig(seed=seed, bound=bound, steps=steps)
    asked: list[tuple[float, ...]] = []

    def loss(weights: tuple[float, ...]) -> float:
        asked.append(weights)
        return -sum(weights)

    seen: list[SearchProgress] = []
    found = search(loss, dimensions, config, seen.append)
    assert len(asked) == len(seen) == steps
    assert asked[0] == (0.0,) * dimensions
    assert all(abs(w) <= bound + 5e-5 for weights in asked for w in weights)
    assert found.weights in asked
    assert [p.loss for p in seen][-1] == found.loss
    assert search(loss, dimensions, config) == found


def test_a_loss_that_is_not_finite_is_never_taken() -> None:
    found = search(lambda w: math.nan if any(w) else 1.0, 2, SearchConfig(steps=20))
    assert found.weights == (0.0, 0.0)
    assert found.loss == 1.0


@pytest.fixture(scope="module")
def folders(chat_base: ModelLocation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    options: dict[str, dict[str, Any]] = {
        "one": {"r": 4, "lora_alpha": 8, "target_modules": list(ALL_MODULES)},
        "two": {"r": 4, "lora_alpha": 8, "target_modules": list(ALL_MODULES)},
        "narrow": {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj"]},
    }
    base = transformers.AutoModelForCausalLM.from_pretrained(chat_base.path, dtype=torch.float32)
    make_adapters(base, options, folder, std=0.3)
    return folder


@pytest.fixture
def config(folders: Path, chat_base: ModelLocation, tmp_path: Path) -> MixtureSearchConfig:
    data = tmp_path / "data.jsonl"
    write_examples(data, EXAMPLES)
    return MixtureSearchConfig(
        data=data,
        adapters=(folders / "one", folders / "two"),
        out=tmp_path / "out",
        base=str(chat_base.path),
        cache_dir=tmp_path,
        examples=4,
        search=SearchConfig(steps=12),
    )


@pytest.mark.slow
def test_a_searched_mixture_is_served_as_a_router(config: MixtureSearchConfig) -> None:
    report = search_mixture(config)
    assert report.loss <= report.base_loss
    catalog = AdapterCatalog.scan(config.adapters[0].parent)
    router = load_static(
        "found", config.out, adapters=catalog.entries, aliases=frozenset(catalog.entries)
    )
    served = dict(router.route("any", frozenset(catalog.entries)).weights)
    assert served == {alias: w for alias, w in report.weights.items() if w}
    with pytest.raises(ConfigError, match="holds a router already"):
        search_mixture(config)
    again = search_mixture(config.model_copy(update={"out": config.out.with_name("again")}))
    assert again.weights == report.weights
    assert again.loss == report.loss


@pytest.mark.slow
def test_the_search_in_factor_space_writes_an_adapter(config: MixtureSearchConfig) -> None:
    report = search_mixture(config.model_copy(update={"space": "factors"}))
    adapters = [read_adapter(path) for path in config.adapters]
    expected = merge(adapters, list(report.weights.values()), "factors")
    written = read_adapter(config.out)
    for path, tensors in written.tensors.items():
        product = tensors.scaling * (tensors.B @ tensors.A)
        wanted = expected[path].scaling * (expected[path].B @ expected[path].A)
        torch.testing.assert_close(product, wanted)


def test_factors_of_different_ranks_are_refused(config: MixtureSearchConfig) -> None:
    folder = config.adapters[0].parent
    mixed = config.model_copy(
        update={"space": "factors", "adapters": (folder / "one", folder / "narrow")}
    )
    with pytest.raises(AdapterError, match="different ranks"):
        search_mixture(mixed)


@pytest.mark.slow
def test_the_exchanged_adapter_is_the_model_with_it_added(
    chat_base: ModelLocation, folders: Path
) -> None:
    import peft

    model, tokenizer = load_base(chat_base.path)
    encoded = encode_examples(tokenizer, EXAMPLES, max_tokens=200)
    reference, _ = load_base(chat_base.path)
    oracle = peft.PeftModel.from_pretrained(reference, folders / "one").eval()
    adapter = read_adapter(folders / "one")
    adapted = AdaptedModel(model, adapter.tensors)

    def loss() -> float:
        return adapted.loss(encoded, pad_id=1, batch_size=4)

    bare = loss()
    adapted.set_adapter(merge([adapter], [1.0], "cat"))
    with torch.inference_mode():
        losses = []
        for example in encoded:
            logits = oracle(torch.tensor([example.ids])).logits[0].log_softmax(dim=-1)
            start = len(example.prompt_ids)
            losses += [
                -float(logits[start + i - 1, token])
                for i, token in enumerate(example.completion_ids)
            ]
    assert loss() == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    assert abs(loss() - bare) > 1e-3
    adapted.set_adapter({})
    assert loss() == bare
