"""Rules that every router kind must keep: one table, one row per kind.

A row is a function ``(folder, seed) -> (RouterConfig, RouterContext)``. It writes a small artifact
into ``folder`` (a kind without an artifact leaves it empty) and returns the configuration, named
"r", and a context in which it can be built. The same seed gives the same router; another seed gives
one of the same shape that is another router: other tensors, weights, or versions of adapters.
``ALIASES`` are the adapters of the context; ``make_context`` makes one. A kind that is registered
and has no row fails.
"""

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.adapters.catalog import AdapterCatalog
from cluster.config import RouterConfig
from cluster.domain.adapter import AdapterEntry, AdapterKey, AdapterManifest
from cluster.domain.decision import DecisionSource, Granularity, kv_namespace
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import ConfigError
from router_service.artifacts.router_artifact import (
    BASE_ALIAS,
    MANIFEST_FILE,
    TENSOR_FILE,
    RouterManifest,
    load_artifact,
    read_manifest,
    save_artifact,
)
from router_service.decision_store.memory import MemoryDecisionStore
from router_service.dlp.dlp_schema import DlpHyperparameters
from router_service.dlp.mini_mlp import NetworkConfig, tensor_shapes
from router_service.flow.flow_artifact import save_gate
from router_service.flow.flow_schema import FlowHyperparameters
from router_service.milora.milora_artifact import save_milora
from router_service.milora.milora_network import tensor_shapes as milora_shapes
from router_service.milora.milora_schema import MiloraHyperparameters
from router_service.router_kinds import default_registry
from router_service.routers.base import Axis, Need, PromptRouter, Resolution, RouterFailed, Stage
from router_service.routers.features import FeatureConfig
from router_service.routers.kind import RouterContext
from router_service.routers.static import save_static
from router_service.routing_request import RouterRequest
from router_service.service import RoutingService

ALIASES = ("cron", "json", "sql")
BASE_DIGEST, BASE_LAYERS, BASE_WIDTH = "base-digest", 2, 8
TEXTS = (
    "Show all orders.",
    "",
    "every day at noon",
    "漢字 " * 50,
    "\x00\n" * 3,
    "Show all orders.",
)

Made = tuple[RouterConfig, RouterContext]
Row = Callable[[Path, int], Made]


def make_context(salt: str = "") -> RouterContext:
    """Make a context with every need met; ``salt`` makes other versions of the adapters."""
    entries = []
    for alias in ALIASES:
        digest = AdapterDigest(f"digest-{alias}{salt}")
        modules = tuple(f"model.layers.{i}.self_attn.q_proj" for i in range(BASE_LAYERS))
        manifest = AdapterManifest(digest, 2, 4.0, False, ("q_proj",), modules, 2, 1, None, None)
        key = AdapterKey(TenantId("shared"), alias, digest)
        entries.append(AdapterEntry(key, manifest, ""))
    return RouterContext(
        aliases=frozenset(ALIASES),
        max_mixture=8,
        base_digest=BASE_DIGEST,
        base_layers=BASE_LAYERS,
        base_width=BASE_WIDTH,
        provides=frozenset(Need),
        adapters=AdapterCatalog(entries).entries,
    )


def _dlp(folder: Path, seed: int) -> Made:
    tiny = DlpHyperparameters(
        features=FeatureConfig(buckets=64), network=NetworkConfig(width=4, hidden=(6, 5, 3))
    )
    candidates = (BASE_ALIAS, *ALIASES)
    rng = np.random.default_rng(seed)
    shapes = tensor_shapes(tiny.network, tiny.features.buckets, len(candidates))
    manifest = RouterManifest(
        kind="dlp",
        candidates=candidates,
        hyperparameters=tiny.model_dump(mode="json"),
        data_digest="d",
    )
    save_artifact(folder, manifest, {n: rng.standard_normal(s) for n, s in shapes.items()})
    return RouterConfig(name="r", path=folder), make_context()


def _static(folder: Path, seed: int) -> Made:
    save_static(folder, {alias: 0.5 - seed - i for i, alias in enumerate(ALIASES)})
    return RouterConfig(name="r", path=folder), make_context()


def _arrow(folder: Path, seed: int) -> Made:
    config = RouterConfig(name="r", kind="arrow", options={"adapters": list(ALIASES)})
    return config, make_context(str(seed))


def _flow(folder: Path, seed: int) -> Made:
    context = make_context()
    hyperparameters = FlowHyperparameters(layers=BASE_LAYERS, hidden_size=BASE_WIDTH)
    generator = torch.Generator().manual_seed(seed)
    save_gate(
        folder,
        adapters={alias: context.adapters[alias].key.digest for alias in ALIASES},
        hyperparameters=hyperparameters,
        base_digest=BASE_DIGEST,
        data_digest="d",
        weight=torch.randn(BASE_LAYERS, len(ALIASES), BASE_WIDTH, generator=generator),
        bias=torch.randn(BASE_LAYERS, len(ALIASES), generator=generator),
    )
    return RouterConfig(name="r", path=folder), context


def _milora(folder: Path, seed: int) -> Made:
    context = make_context()
    hyperparameters = MiloraHyperparameters(top_k=3, layers=BASE_LAYERS, hidden_size=BASE_WIDTH)
    generator = torch.Generator().manual_seed(seed)
    shapes = milora_shapes(BASE_LAYERS, BASE_WIDTH, hyperparameters.pooling)
    save_milora(
        folder,
        alias="sql",
        digest=context.adapters["sql"].key.digest,
        hyperparameters=hyperparameters,
        base_digest=BASE_DIGEST,
        data_digest="d",
        tensors={n: torch.randn(shape, generator=generator) for n, shape in shapes.items()},
    )
    return RouterConfig(name="r", path=folder), context


ROWS: dict[str, Row] = {
    "arrow": _arrow,
    "dlp": _dlp,
    "flow": _flow,
    "milora": _milora,
    "static": _static,
}


def _dlp_by_sentence(folder: Path, seed: int) -> Made:
    config, context = _dlp(folder, seed)
    return config.model_copy(update={"options": {"reroute": "sentence"}}), context


_MIXTURES = (Granularity.REQUEST, Granularity.SENTENCE)
"""Lists what a mixture alone says, whichever router it is of."""

VARIANTS: dict[str, Row] = {"dlp by sentence": _dlp_by_sentence}
"""Kinds again, with options that change what they declare."""


@pytest.fixture(params=[*ROWS, *VARIANTS])
def row(request: pytest.FixtureRequest) -> Row:
    return (ROWS | VARIANTS)[request.param]


def _build(made: Made) -> PromptRouter:
    return default_registry().build(*made)


def _build_or_refuse(made: Made) -> PromptRouter | ConfigError:
    try:
        return _build(made)
    except ConfigError as error:
        return error


def _answers(router: PromptRouter, texts: tuple[str, ...] = TEXTS) -> list[object]:
    return [router.route(text, frozenset(router.candidates)) for text in texts]


def test_every_registered_kind_has_a_row() -> None:
    assert tuple(sorted(ROWS)) == default_registry().kinds


def test_the_same_router_gives_the_same_answers(row: Row, tmp_path: Path) -> None:
    one, two = (_build(row(tmp_path / name, 1)) for name in ("one", "two"))
    assert one.version == two.version
    assert one.candidates == two.candidates
    assert _answers(one) == _answers(two) == _answers(one)


def test_an_answer_does_not_depend_on_what_else_was_asked(row: Row, tmp_path: Path) -> None:
    router = _build(row(tmp_path, 1))
    alone = dict(zip(TEXTS, _answers(router), strict=True))
    for seed in range(3):
        order = random.Random(seed).sample(TEXTS, len(TEXTS))
        assert _answers(router, tuple(order)) == [alone[text] for text in order]


def test_answers_are_mixtures(row: Row, tmp_path: Path) -> None:
    router = _build(row(tmp_path, 1))
    for answer in _answers(router):
        aliases = [alias for alias, _ in answer.weights]  # type: ignore[attr-defined] # mixtures
        order = [alias for alias in router.candidates if alias in aliases]
        assert aliases == order  # in candidate order, each once
        assert BASE_ALIAS not in aliases
        assert all(math.isfinite(weight) and weight for _, weight in answer.weights)  # type: ignore[attr-defined] # mixtures
        limit = router.declares.max_fan_out
        assert limit is None or len(aliases) <= limit


def test_nothing_outside_what_is_allowed_is_chosen(row: Row, tmp_path: Path) -> None:
    router = _build(row(tmp_path, 1))
    for allowed in (frozenset({"sql"}), frozenset({"sql", BASE_ALIAS}), frozenset()):
        for text in TEXTS:
            try:
                answer = router.route(text, allowed)
            except RouterFailed:
                continue  # a router may need all its adapters; the base alone answers then
            assert {alias for alias, _ in answer.weights} <= allowed
            # the base's score has what is not allowed
            assert {score.alias for score in answer.scores} <= allowed | {BASE_ALIAS}


def test_another_router_has_another_version(row: Row, tmp_path: Path) -> None:
    versions = {_build(row(tmp_path / str(seed), seed)).version for seed in range(3)}
    assert len(versions) == 3


def test_the_version_survives_being_written_again(row: Row, tmp_path: Path) -> None:
    config, context = row(tmp_path / "one", 1)
    if config.path is None:
        assert not list(tmp_path.rglob("*"))
        return
    manifest, tensors = load_artifact(
        config.path,
        kind=read_manifest(config.path).kind,
        aliases=context.aliases,
        base_digest=context.base_digest,
        adapters=context.adapters,
    )
    save_artifact(tmp_path / "two", manifest, tensors)
    for name in (MANIFEST_FILE, TENSOR_FILE):
        assert (config.path / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    again = _build((config.model_copy(update={"path": tmp_path / "two"}), context))
    assert again.version == _build((config, context)).version
    assert _answers(again) == _answers(_build((config, context)))


def test_no_byte_can_change_unnoticed(row: Row, tmp_path: Path) -> None:
    config, context = row(tmp_path, 1)
    if config.path is None:
        return
    before = _build((config, context)).version
    for name in (MANIFEST_FILE, TENSOR_FILE):
        path = config.path / name
        whole = path.read_bytes()
        rng = random.Random(name)
        for at in sorted(rng.sample(range(len(whole)), min(len(whole), 60))):
            changed = bytearray(whole)
            changed[at] ^= 1 << rng.randrange(7)
            path.write_bytes(bytes(changed))
            built = _build_or_refuse((config, context))
            if isinstance(built, ConfigError):
                assert str(config.path) in built.message or "no kind" in built.message
            else:  # white space between two fields is not content
                assert name == MANIFEST_FILE
                assert json.loads(changed) == json.loads(whole)
                assert built.version == before
        path.write_bytes(whole)


def test_candidates_in_another_order_are_refused(row: Row, tmp_path: Path) -> None:
    config, context = row(tmp_path, 1)
    if config.path is None:
        swapped = [*reversed(ALIASES)]
        other = config.model_copy(update={"options": config.options | {"adapters": swapped}})
        assert _build((other, context)).version != _build((config, context)).version
        return
    path = config.path / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"candidates": manifest["candidates"][::-1]}))
    if len(manifest["candidates"]) > 1:
        with pytest.raises(ConfigError, match="version does not match"):
            _build((config, context))


def test_adapters_that_are_not_there_are_refused(row: Row, tmp_path: Path) -> None:
    config, context = row(tmp_path, 1)
    wanted = [alias for alias in _build((config, context)).candidates if alias != BASE_ALIAS]
    fewer = {a: entry for a, entry in context.adapters.items() if a != wanted[0]}
    lacking = replace(context, aliases=frozenset(fewer), adapters=fewer)
    with pytest.raises(ConfigError, match=wanted[0]):
        _build((config, lacking))


def test_another_base_is_refused_where_its_states_are_read(row: Row, tmp_path: Path) -> None:
    config, context = row(tmp_path, 1)
    declared = _build((config, context)).declares
    bound = config.path is not None and read_manifest(config.path).base_digest is not None
    assert bound or not declared.needs & {Need.PROMPT_HIDDEN, Need.TOKEN_HIDDEN}
    if bound:
        with pytest.raises(ConfigError, match=f"trained for base {BASE_DIGEST}, but other"):
            _build((config, replace(context, base_digest="other")))


@pytest.mark.parametrize("field", ["layers", "width"])
def test_a_base_of_another_size_is_refused_by_field(row: Row, tmp_path: Path, field: str) -> None:
    config, context = row(tmp_path, 1)
    declared = getattr(_build((config, context)).declares, field)
    other = replace(context, **{f"base_{field}": 77})
    if declared is None:
        _build((config, other))
        return
    with pytest.raises(ConfigError, match=rf"routers\.r: {field}: .* {declared}, but .* 77"):
        _build((config, other))


def test_an_application_without_what_it_needs_is_refused(row: Row, tmp_path: Path) -> None:
    config, context = row(tmp_path, 1)
    for need in _build((config, context)).declares.needs:
        lacking = replace(context, provides=frozenset(Need) - {need})
        with pytest.raises(ConfigError, match=rf"routers\.r: needs {need.value}, not provided"):
            _build((config, lacking))


def test_a_fan_out_that_is_not_served_is_refused_or_kept_to(row: Row, tmp_path: Path) -> None:
    config, context = row(tmp_path, 1)
    narrow = replace(context, max_mixture=1)
    router = _build_or_refuse((config, narrow))
    if isinstance(router, ConfigError):
        assert "routers.r: max_fan_out" in router.message
        return
    limit = router.declares.max_fan_out
    assert limit is None or limit <= 1
    assert all(len(answer.weights) <= 1 for answer in _answers(router))  # type: ignore[attr-defined] # mixtures


def test_other_versions_of_its_adapters_are_refused_or_another_version(
    row: Row, tmp_path: Path
) -> None:
    config, context = row(tmp_path, 1)
    before = _build((config, context))
    other = replace(context, adapters=make_context("-new").adapters)
    bound = config.path is not None and read_manifest(config.path).adapter_digests is not None
    after = _build_or_refuse((config, other))
    if bound:
        assert isinstance(after, ConfigError)
        assert "adapter_digests" in after.message
    else:
        assert not isinstance(after, ConfigError)
        by_tensors = before.declares.granularity not in _MIXTURES
        assert (after.version != before.version) == by_tensors


def test_an_unknown_option_is_refused_by_name(row: Row, tmp_path: Path) -> None:
    config, context = row(tmp_path, 1)
    wrong = config.model_copy(update={"options": config.options | {"no_such": 1}})
    with pytest.raises(ConfigError, match=r"routers\.r\.options\.no_such"):
        _build((wrong, context))


_NEEDED = {
    Stage.ADMISSION: frozenset(),
    Stage.TEXT: frozenset({Need.TEXT}),
    Stage.SENTENCE: frozenset({Need.TEXT}),
    Stage.PREFILL: frozenset({Need.PROMPT_HIDDEN}),
    Stage.LAYER: frozenset({Need.TOKEN_HIDDEN}),
    Stage.SITE: frozenset({Need.SITE_INPUTS}),
}
_GRANULARITY = {
    Stage.ADMISSION: Granularity.REQUEST,
    Stage.TEXT: Granularity.REQUEST,
    Stage.SENTENCE: Granularity.SENTENCE,
    Stage.PREFILL: Granularity.PROMPT,
    Stage.LAYER: Granularity.TOKEN,
    Stage.SITE: Granularity.TOKEN,
}


def test_what_it_declares_fits_together(row: Row, tmp_path: Path) -> None:
    declared = _build(row(tmp_path, 1)).declares
    assert declared.needs == _NEEDED[declared.stage]
    assert declared.granularity is _GRANULARITY[declared.stage]
    if declared.stage in (Stage.ADMISSION, Stage.TEXT, Stage.SENTENCE):
        assert declared.resolution is Resolution.ALL
        assert declared.axis is Axis.ADAPTERS
        assert declared.causal
    if declared.granularity is Granularity.PROMPT:
        assert not declared.causal  # a token's mask depends on the whole prompt
    if declared.needs & {Need.PROMPT_HIDDEN, Need.TOKEN_HIDDEN}:
        assert declared.layers is not None
        assert declared.width is not None


def _service(router: PromptRouter, codec: Any, clock: Any, config: Any, directory: Any) -> Any:
    return RoutingService(
        routers={router.name: router},
        store=MemoryDecisionStore(codec, clock),
        directory=directory,
        codec=codec,
        clock=clock,
        config=config,
        max_mixture=8,
    )


async def test_a_decision_goes_through_the_store_as_it_was_taken(
    row: Row, tmp_path: Path, codec: Any, clock: Any, config: Any, directory: Any
) -> None:
    router = _build(row(tmp_path, 1))
    service = _service(router, codec, clock, config, directory)
    for text in set(TEXTS):
        first = await service.decide(TenantId("acme"), RouterRequest("r"), text)
        again = await service.decide(TenantId("acme"), RouterRequest("r"), text)
        assert (first.source, again.source) == (DecisionSource.COMPUTED, DecisionSource.STORED)
        assert first.encoded == again.encoded
        decision = codec.decode_signed(first.encoded)
        assert decision.router_version == router.version
        assert decision.granularity is router.declares.granularity
        routed = dict(router.route(text, frozenset(router.candidates)).weights)
        assert {term.key.alias: term.weight for term in decision.mixture} == routed


async def test_a_tenant_without_its_adapters_is_answered_by_what_it_has(
    row: Row, tmp_path: Path, codec: Any, clock: Any, config: Any, directory: Any
) -> None:
    """globex has sql alone."""
    service = _service(_build(row(tmp_path, 1)), codec, clock, config, directory)
    decided = await service.decide(TenantId("globex"), RouterRequest("r"), "any")
    assert {term.key.alias for term in decided.decision.mixture} <= {"sql"}
    assert decided.source in (DecisionSource.COMPUTED, DecisionSource.FALLBACK)


async def test_routers_of_two_versions_share_no_kv_beyond_a_static_mixture(
    row: Row, tmp_path: Path, codec: Any, clock: Any, config: Any, directory: Any
) -> None:
    namespaces = {}
    for seed in (1, 2):
        router = _build(row(tmp_path / str(seed), seed))
        service = _service(router, codec, clock, config, directory)
        decided = await service.decide(TenantId("acme"), RouterRequest("r"), "any")
        namespaces[seed] = decided.decision
    one, two = (kv_namespace("base", d, isolate_tenant=True) for d in namespaces.values())
    same_mixture = namespaces[1].mixture == namespaces[2].mixture
    static = namespaces[1].granularity in _MIXTURES
    assert (one == two) == (same_mixture and static)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"invocation_tokens": (5,)}, "activated LoRA"),
        ({"modules": ("lm_head", "model.layers.0.self_attn.q_proj")}, "output head"),
    ],
)
def test_what_cannot_be_weighed_inside_the_model_is_refused(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    config, context = _flow(tmp_path, 0)
    entries = dict(context.adapters)
    json_entry = entries["json"]
    manifest = replace(json_entry.manifest, **change)
    entries["json"] = replace(json_entry, manifest=manifest)
    registry = default_registry()
    assert registry.build_parts([config], context)
    with pytest.raises(ConfigError, match=f"routers.r: json: .*{named}"):
        registry.build_parts([config], replace(context, adapters=entries))
