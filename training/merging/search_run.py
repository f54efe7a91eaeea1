"""A searched mixture of adapters, from a few examples of one task, as a router or an adapter."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from cluster.adapters.format.manifest import ANYWHERE
from cluster.adapters.loader import load_adapter
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.base_model.source import QUICKSTART_MODEL, resolve_model
from cluster.config import AdapterConfig, Section
from cluster.errors import ConfigError
from router_service.artifacts.outputs import claim_folder
from router_service.merging.merge import Method, merge
from router_service.routers.static import save_static
from training.base_model import linear_shapes, load_base
from training.encoding import encode_examples
from training.jsonl import digest_examples, read_examples
from training.merging.merged_adapter import export_merge
from training.merging.mixture_loss import AdaptedModel
from training.merging.search import SearchConfig, SearchProgress, Weights, search

_METHOD: dict[str, Method] = {"outputs": "cat", "factors": "factors"}


class MixtureSearchConfig(Section):
    """Settings of ``search_mixture``."""

    data: Path
    """JSONL of {"prompt", "completion"}."""
    adapters: Annotated[tuple[Path, ...], Field(min_length=1)]
    """PEFT folders; an alias is a folder's name."""
    out: Path
    """Folder for the router, or in factor space for the adapter."""
    base: str = QUICKSTART_MODEL
    """Hub id or local folder."""
    cache_dir: Path
    """Folder of fetched base models."""
    space: Literal["outputs", "factors"] = "outputs"
    """outputs: weights of the adapters' outputs, which is what a mixture is. factors: LoraHub's own
    sums of A and of B, with cross terms; the result is a new adapter."""
    examples: Annotated[int, Field(ge=1)] = 16
    """Drawn from the data by the seed."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    max_tokens: Annotated[int, Field(ge=8)] = 512
    search: SearchConfig = SearchConfig()
    base_check: Literal["digest", "name"] = "digest"
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 leaves the library's choice."""
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class MixtureSearchReport:
    """Results of a search; losses in nats per answer token on the examples searched with."""

    out: Path
    weights: dict[str, float]
    loss: float
    base_loss: float
    average_loss: float


def search_mixture(
    config: MixtureSearchConfig, progress: Callable[[SearchProgress], None] | None = None
) -> MixtureSearchReport:
    """Search weights and write a static router, or in factor space a merged adapter.

    Raises:
        ConfigError: two adapters have one name, or ``out`` cannot be written, is taken or is one of
            them.
        AdapterError: an adapter does not fit the base or, in factor space, the others.
        TrainingDataError: a line of the data is wrong or too long.
        ModelSourceError: the base model cannot be had.
    """
    aliases = tuple(path.resolve().name for path in config.adapters)
    if len(set(aliases)) != len(aliases):
        raise ConfigError(f"two adapters have one name: {', '.join(aliases)}")
    claim_folder(config.out, overwrite=config.overwrite, reads=config.adapters)
    examples = read_examples(config.data)
    random.Random(f"{config.search.seed}/examples").shuffle(examples)
    examples = examples[: config.examples]
    if config.threads:
        torch.set_num_threads(config.threads)
    base = resolve_model(config.base, config.cache_dir)
    model, tokenizer = load_base(base.path)
    shapes = BaseShapes.of_model(base.path, base.digest, base.model_id, linear_shapes(model))
    limits = AdapterConfig(max_rank=1024, memory_bytes=2**36, base_check=config.base_check)
    adapters = [
        load_adapter(path, shapes, limits, links_below=ANYWHERE) for path in config.adapters
    ]
    adapted = AdaptedModel(model, {path for adapter in adapters for path in adapter.tensors})
    encoded = encode_examples(tokenizer, examples, max_tokens=config.max_tokens)
    method = _METHOD[config.space]

    def loss(weights: Weights) -> float:
        adapted.set_adapter(merge(adapters, weights, method) if any(weights) else {})
        return adapted.loss(encoded, pad_id=tokenizer.pad_token_id, batch_size=config.batch_size)

    found = search(loss, len(adapters), config.search, progress)
    base_loss = loss((0.0,) * len(adapters))
    average_loss = loss((1 / len(adapters),) * len(adapters))
    weights = dict(zip(aliases, found.weights, strict=True))
    by_alias = dict(zip(aliases, adapters, strict=True))
    if config.space == "outputs":
        save_static(
            config.out,
            weights,
            method="search",
            adapter_digests={alias: a.manifest.digest for alias, a in by_alias.items()},
            training=config.search.model_dump(mode="json") | {"examples": len(examples)},
            data_digest=digest_examples(examples),
            metrics={"loss": found.loss, "base_loss": base_loss, "average_loss": average_loss},
            overwrite=config.overwrite,
        )
    else:
        export_merge(config.out, by_alias, weights, method, overwrite=config.overwrite)
    return MixtureSearchReport(config.out, weights, found.loss, base_loss, average_loss)
