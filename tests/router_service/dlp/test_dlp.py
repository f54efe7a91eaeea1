"""The DLP router, its artifact and the registry, on a tiny network."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import RouterConfig
from cluster.domain.decision import Granularity
from cluster.errors import ConfigError
from router_service.artifacts.router_artifact import (
    MANIFEST_FILE,
    TENSOR_FILE,
    RouterManifest,
    load_artifact,
    save_artifact,
)
from router_service.dlp.dlp_options import DlpOptions
from router_service.dlp.dlp_router import ROUTER_KIND, DlpRouter, load_dlp
from router_service.dlp.dlp_schema import DlpHyperparameters
from router_service.dlp.mini_mlp import NetworkConfig, tensor_shapes
from router_service.router_kinds import RouterRegistry, default_registry
from router_service.routers.base import Need, RouterFailed, Stage
from router_service.routers.features import FeatureConfig
from router_service.routers.kind import RouterContext
from router_service.routers.selection import SelectionConfig

CANDIDATES = ("", "cron", "json", "sql")
EVERYTHING = frozenset(CANDIDATES)
TINY = DlpHyperparameters(
    features=FeatureConfig(buckets=64),
    network=NetworkConfig(width=4, hidden=(6, 5, 3)),
)


def _manifest(**changes: Any) -> RouterManifest:
    fields = {
        "kind": "dlp",
        "candidates": CANDIDATES,
        "hyperparameters": TINY.model_dump(mode="json"),
        "data_digest": "d",
    }
    return RouterManifest.model_validate(fields | changes)


def _tensors(seed: int = 0, candidates: tuple[str, ...] = CANDIDATES) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = tensor_shapes(TINY.network, TINY.features.buckets, len(candidates))
    return {name: rng.standard_normal(s).astype(np.float16) for name, s in shapes.items()}


def _fixed(*probabilities: float, **selection: Any) -> DlpRouter:
    """Make a router of fixed probabilities, for every text."""
    tensors = {name: np.zeros_like(tensor) for name, tensor in _tensors().items()}
    tensors["linear.3.bias"] = np.log(np.array(probabilities, dtype=np.float32))
    hyperparameters = TINY.model_copy(update={"selection": SelectionConfig(**selection)})
    manifest = _manifest(hyperparameters=hyperparameters.model_dump(mode="json"))
    return DlpRouter.from_tensors("auto", manifest, tensors)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    save_artifact(tmp_path, _manifest(), _tensors())
    return tmp_path


def _load(path: Path, **changes: Any) -> DlpRouter:
    arguments: dict[str, Any] = {"aliases": frozenset(CANDIDATES), **changes}
    return load_dlp("auto", path, **arguments)


def test_the_worked_example_of_the_paper() -> None:
    routed = _fixed(1e-9, 0.55, 0.30, 0.15).route("text", EVERYTHING)
    assert routed.weights == (("cron", 0.5622), ("json", 0.4378))
    assert [(s.alias, s.kept) for s in routed.scores] == [
        ("", False), ("cron", True), ("json", True), ("sql", False),
    ]  # fmt: skip
    assert [s.probability for s in routed.scores] == pytest.approx([0, 0.55, 0.3, 0.15], abs=1e-5)


def test_a_base_kept_beside_adapters_leaves_them_the_whole_weight() -> None:
    routed = _fixed(0.30, 0.45, 0.15, 0.10).route("text", EVERYTHING)
    assert [s.alias for s in routed.scores if s.kept] == ["", "cron"]
    assert routed.weights == (("cron", 1.0),)
    diluted = _fixed(0.30, 0.45, 0.15, 0.10, dilute=True).route("text", EVERYTHING)
    assert diluted.weights == (("cron", 0.5374),)


def test_a_base_that_is_likelier_answers_alone() -> None:
    for probabilities in ((0.55, 0.30, 0.1, 0.05), (0.9, 0.05, 0.03, 0.02), (0.25,) * 4):
        alone = _fixed(*probabilities).route("text", EVERYTHING)
        assert alone.weights == ()
        assert [s.alias for s in alone.scores if s.kept] == [""]


@pytest.mark.parametrize(
    ("selection", "adapters"),
    [
        ({}, {"cron"}),
        ({"min_probability": 0.44}, {"cron"}),
        ({"min_probability": 0.46}, set()),
        ({"margin": 0.14}, {"cron"}),
        ({"margin": 0.16}, set()),
        ({"margin": 0.16, "top_p": 1.0}, set()),
        ({"min_probability": 0.46, "method": "top_k", "top_k": 3}, set()),
        ({"margin": 0.16, "method": "threshold", "threshold": 0.1}, set()),
    ],
    ids=str,
)
def test_a_router_abstains_where_no_adapter_is_likely_enough(
    selection: dict[str, Any], adapters: set[str]
) -> None:
    routed = _fixed(0.30, 0.45, 0.15, 0.10, **selection).route("text", EVERYTHING)
    assert dict(routed.weights).keys() == adapters
    assert adapters or [s.alias for s in routed.scores if s.kept] == [""]


def test_the_probability_of_foreign_candidates_is_the_bases() -> None:
    router = _fixed(0.1, 0.6, 0.2, 0.1)
    routed = router.route("text", frozenset({"", "json", "sql"}))
    assert [s.alias for s in routed.scores] == ["", "json", "sql"]
    assert [s.probability for s in routed.scores] == pytest.approx([0.7, 0.2, 0.1], abs=1e-5)
    assert [s.kept for s in routed.scores] == [True, False, False]
    assert routed.weights == ()
    own = _fixed(0.1, 0.2, 0.6, 0.1).route("text", frozenset({"", "json", "sql"}))
    assert own.weights == (("json", 1.0),)


def test_without_a_base_class_foreign_probability_is_no_adapter_all_the_same() -> None:
    tensors = {n: np.zeros_like(t) for n, t in _tensors(candidates=CANDIDATES[1:]).items()}
    tensors["linear.3.bias"] = np.log(np.array([0.55, 0.35, 0.1], dtype=np.float32))
    router = DlpRouter.from_tensors("auto", _manifest(candidates=CANDIDATES[1:]), tensors)
    routed = router.route("text", frozenset({"json", "sql"}))
    assert {s.alias: s.probability for s in routed.scores} == pytest.approx(
        {"json": 0.35, "sql": 0.1, "": 0.55}, abs=1e-5
    )
    assert routed.weights == ()
    everything = router.route("text", EVERYTHING)
    assert [s.alias for s in everything.scores] == ["cron", "json", "sql"]
    assert everything.weights == (("cron", 0.5498), ("json", 0.4502))


@given(
    logits=st.lists(st.floats(-8, 8, width=32), min_size=4, max_size=4),
    allowed=st.sets(st.sampled_from(CANDIDATES)),
    top_p=st.floats(0.05, 1),
    min_probability=st.floats(0, 0.9),
    margin=st.floats(0, 0.9),
    dilute=st.booleans(),
)
def test_what_may_be_used_decides_nothing_but_who_gets_the_base(
    logits: list[float], allowed: set[str], dilute: bool, **selection: float
) -> None:
    """Own probabilities are those of one who may use everything; the rest is the base's."""
    p = np.exp(np.array(logits) - max(logits))
    router = _fixed(*(p / p.sum()), dilute=dilute, **selection)
    whole = {s.alias: s.probability for s in router.route("t", EVERYTHING).scores}
    routed = router.route("t", frozenset(allowed))
    mine = allowed - {""}
    found = {s.alias: s.probability for s in routed.scores}
    assert found.keys() == mine | {""}
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    assert all(found[alias] == pytest.approx(whole[alias], abs=1e-5) for alias in mine)
    kept = {s.alias for s in routed.scores if s.kept}
    assert kept
    assert {alias for alias, _ in routed.weights} <= kept & mine
    if routed.weights:
        total = sum(weight for _, weight in routed.weights)
        assert total == pytest.approx(1, abs=1e-3) or (dilute and "" in kept and total < 1)
        assert max(found[a] for a in mine) > found[""] + selection["margin"] - 1e-5
        assert max(found[a] for a in mine) > selection["min_probability"] - 1e-5


def test_nothing_allowed_is_the_base() -> None:
    for allowed in (frozenset[str](), frozenset({""}), frozenset({"strange"})):
        routed = _fixed(0.25, 0.25, 0.25, 0.25).route("text", allowed)
        assert routed.weights == ()
        assert [(s.alias, s.probability, s.kept) for s in routed.scores] == [("", 1.0, True)]


def test_weights_are_rounded_and_one_that_rounds_to_nothing_is_dropped() -> None:
    router = _fixed(1e-9, 0.99998, 0.00001, 0.00001, top_p=1.0, renormalise="divide_by_sum")
    assert router.route("text", EVERYTHING).weights == (("cron", 1.0),)


def test_logits_that_are_not_finite_are_no_answer() -> None:
    with pytest.raises(RouterFailed, match="not finite"):
        _fixed(np.nan, 0.5, 0.3, 0.2).route("text", EVERYTHING)


def test_the_same_text_gets_the_same_answer_from_every_copy(artifact: Path) -> None:
    texts = ["Show all orders.", "", "漢字 " * 40]
    first, second = _load(artifact), _load(artifact)
    for text in texts:
        assert first.route(text, EVERYTHING) == second.route(text, EVERYTHING)
    assert first.version == second.version
    answers = {tuple(s.probability for s in first.route(t, EVERYTHING).scores) for t in texts}
    assert len(answers) == 3


def test_an_override_changes_answers_and_version(artifact: Path) -> None:
    plain, wide, narrow = (
        _load(artifact),
        _load(artifact, options=DlpOptions(top_p=1.0)),
        _load(artifact, max_mixture=1),
    )
    assert len({plain.version, wide.version, narrow.version}) == 3
    assert sum(s.kept for s in wide.route("text", EVERYTHING).scores) == 4
    assert sum(s.kept for s in narrow.route("text", EVERYTHING).scores) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"candidates": ["", "json", "cron", "sql"]},
        {"data_digest": "other"},
        {"metrics": {"held_out_accuracy": 1.0}},
        {"hyperparameters": {}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_changed_manifest_is_refused(artifact: Path, changes: dict[str, Any]) -> None:
    path = artifact / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ConfigError, match="version does not match") as refusal:
        _load(artifact)
    assert str(path) in refusal.value.message


def test_tensors_of_another_training_are_refused(artifact: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_artifact(other, _manifest(), _tensors(seed=1))
    (artifact / TENSOR_FILE).write_bytes((other / TENSOR_FILE).read_bytes())
    with pytest.raises(ConfigError, match="version does not match"):
        _load(artifact)


def test_candidates_must_be_in_the_catalog(artifact: Path) -> None:
    with pytest.raises(ConfigError, match="not adapters here: cron, sql"):
        _load(artifact, aliases=frozenset({"json"}))


def test_a_router_that_reads_a_bases_states_needs_that_base(tmp_path: Path) -> None:
    save_artifact(tmp_path, _manifest(base_digest="b1"), _tensors())
    for served in ("b1", None):
        load_artifact(tmp_path, kind="dlp", aliases=CANDIDATES, base_digest=served)
    with pytest.raises(ConfigError, match="trained for base b1, but b2"):
        load_artifact(tmp_path, kind="dlp", aliases=CANDIDATES, base_digest="b2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "kind is 'other'"),
        ({"candidates": ("sql", "sql", "", "cron")}, "named twice"),
        ({"hyperparameters": {"network": {"wdth": 4}}}, r"hyperparameters\.network\.wdth"),
    ],
)
def test_a_manifest_that_cannot_be_used(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    save_artifact(tmp_path, _manifest(**change), _tensors())
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("query", None, "missing or unknown: query"),
        ("extra", np.zeros(1, np.float16), "missing or unknown: extra"),
        ("query", np.zeros(5, np.float16), r"shape \(5,\), not \(4,\)"),
        ("query", np.full(4, np.inf, np.float16), "not finite"),
        ("query", np.zeros(4, np.int32), "not finite"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, name: str, tensor: Any, message: str) -> None:
    tensors = _tensors()
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    save_artifact(tmp_path, _manifest(), tensors)
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path)


def test_missing_and_broken_files_are_named(artifact: Path) -> None:
    (artifact / TENSOR_FILE).write_bytes(b"not safetensors")
    with pytest.raises(ConfigError, match=TENSOR_FILE):
        _load(artifact)
    (artifact / MANIFEST_FILE).write_text('{"kind": "dlp"}')
    with pytest.raises(ConfigError, match=r"router\.json: candidates: Field required"):
        _load(artifact)
    (artifact / MANIFEST_FILE).unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        _load(artifact)


def test_a_reroute_reads_the_prompts_tail_and_the_last_full_sentence(artifact: Path) -> None:
    router = _load(artifact, options=DlpOptions(prompt_characters=5))
    answer = "The first sentence is here. This is the second sentence of it. And"
    rerouted = router.reroute("alpha beta delta", answer, EVERYTHING)
    text = "delta\nThis is the second sentence of it."
    assert rerouted == _load(artifact).route(text, EVERYTHING)
    assert router.reroute("alpha beta delta", "", EVERYTHING) == router.route(
        "alpha beta delta", EVERYTHING
    )


def test_sentences_are_an_option_with_a_version_of_its_own(artifact: Path) -> None:
    plain = _load(artifact)
    option = DlpOptions(reroute="sentence", min_sentence_characters=9, answer_sentences=2)
    router = _load(artifact, options=option)
    assert (plain.declares.stage, plain.declares.granularity) == (Stage.TEXT, Granularity.REQUEST)
    assert router.declares.stage is Stage.SENTENCE
    assert router.declares.granularity is Granularity.SENTENCE
    assert plain.version == _load(artifact, options=DlpOptions(reroute="never")).version
    versions = {
        _load(artifact, options=options).version
        for options in (
            DlpOptions(),
            DlpOptions(reroute="sentence"),
            DlpOptions(reroute="sentence", min_sentence_characters=9),
            option,
        )
    }
    assert len(versions) == 4
    assert router.sentences.min_characters == 9
    answer = "One is short. Two is too. Three begins"
    assert router.reading("prompt", answer) == "prompt\nOne is short. Two is too."
    assert router.route("prompt", EVERYTHING) == plain.route("prompt", EVERYTHING)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"reroute": "word"}, "reroute"),
        ({"reroute": True}, "reroute"),
        ({"reroute": "sentence", "min_sentence_characters": 0}, "min_sentence_characters"),
        ({"reroutes": "sentence"}, "reroutes"),
    ],
)
def test_an_unknown_way_to_reroute_is_refused(
    artifact: Path, options: dict[str, Any], field: str
) -> None:
    context = RouterContext(frozenset(CANDIDATES) - {""}, max_mixture=8)
    config = RouterConfig(name="auto", path=artifact, options=options)
    with pytest.raises(ConfigError, match=rf"routers\.auto\.options\.{field}"):
        default_registry().build(config, context)


@pytest.mark.parametrize("options", [{"margin": 0.1}, {"dilute": True}], ids=str)
def test_what_compares_with_a_base_needs_one(tmp_path: Path, options: dict[str, Any]) -> None:
    candidates = CANDIDATES[1:]
    save_artifact(tmp_path, _manifest(candidates=candidates), _tensors(candidates=candidates))
    (field,) = options
    with pytest.raises(ConfigError, match=rf"routers\.auto\.options\.{field}: .*not a candidate"):
        _load(tmp_path, options=DlpOptions(**options))
    assert _load(tmp_path, options=DlpOptions(min_probability=0.2)).selection.min_probability == 0.2


def test_the_registry_builds_the_configured_routers_in_order(artifact: Path) -> None:
    configs = [
        RouterConfig(name="auto", path=artifact),
        RouterConfig(name="wide", kind="dlp", path=artifact, options={"top_p": 1.0}),
    ]
    context = RouterContext(aliases=EVERYTHING, max_mixture=3)
    routers = default_registry().build_all(configs, context)
    assert list(routers) == ["auto", "wide"]
    assert sum(s.kept for s in routers["wide"].route("text", EVERYTHING).scores) == 3


def test_the_registry_refuses_what_it_cannot_build(artifact: Path) -> None:
    config = RouterConfig(name="auto", path=artifact)
    context = RouterContext(aliases=EVERYTHING, max_mixture=8)
    registry = default_registry()
    with pytest.raises(ConfigError, match=r"routers\.auto: named twice"):
        registry.build_all([config, config], context)
    with pytest.raises(ConfigError, match="no kind 'dlp'; there are: none"):
        RouterRegistry().build(config, context)
    with pytest.raises(ConfigError, match="registered twice"):
        registry.register(ROUTER_KIND)
    with pytest.raises(ConfigError, match=r"routers\.x\.path: missing"):
        registry.build(RouterConfig(name="x", kind="dlp"), context)
    blind = RouterContext(
        aliases=EVERYTHING, max_mixture=8, provides=frozenset({Need.TOKEN_HIDDEN})
    )
    with pytest.raises(ConfigError, match="needs text"):
        registry.build(config, blind)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topp": 0.5}, r"routers\.auto\.options\.topp: Extra inputs"),
        ({"top_p": 0}, r"routers\.auto\.options\.top_p: .*greater than 0"),
        ({"renormalise": "none"}, r"routers\.auto\.options\.renormalise"),
        ({"method": "top-k"}, r"routers\.auto\.options\.method"),
        ({"top_k": 1}, r"routers\.auto\.options\.top_k: needs method top_k"),
        ({"method": "top_k", "top_p": 0.5}, r"options\.top_p: needs method nucleus"),
        ({"min_probability": 1}, r"options\.min_probability: .*less than 1"),
        ({"margin": -0.1}, r"options\.margin: .*greater than or equal to 0"),
        ({"minprobability": 0.5}, r"options\.minprobability: Extra inputs"),
        ({"history": -1}, r"options\.history: .*greater than or equal to 0"),
        ({"history": 17}, r"options\.history: .*less than or equal to 16"),
        ({"carry": 0}, r"options\.carry: .*greater than 0"),
        ({"history": 0, "carry": 0.5}, r"options\.carry: needs a history above 0"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_is_named(
    artifact: Path, options: dict[str, Any], message: str
) -> None:
    context = RouterContext(aliases=EVERYTHING, max_mixture=8)
    with pytest.raises(ConfigError, match=message):
        default_registry().build(RouterConfig(name="auto", path=artifact, options=options), context)


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, {"cron": 0.5622, "json": 0.4378}),
        ({"renormalise": "divide_by_sum"}, {"cron": 0.6471, "json": 0.3529}),
        ({"method": "threshold", "threshold": 0.1}, {"cron": 0.4083, "json": 0.318, "sql": 0.2737}),
        ({"method": "top_k", "top_k": 1}, {"cron": 1.0}),
        ({"top_p": 1.0, "max_fan_out": 2}, {"cron": 0.5622, "json": 0.4378}),
    ],
    ids=str,
)
def test_every_option_reaches_the_selection(
    tmp_path: Path, options: dict[str, Any], weights: dict[str, float]
) -> None:
    tensors = {name: np.zeros_like(tensor) for name, tensor in _tensors().items()}
    tensors["linear.3.bias"] = np.log(np.array([1e-7, 0.55, 0.30, 0.15])).astype(np.float32)
    save_artifact(tmp_path, _manifest(), tensors)
    config = RouterConfig(name="auto", path=tmp_path, options=options)
    router = default_registry().build(config, RouterContext(EVERYTHING, max_mixture=8))
    assert dict(router.route("text", EVERYTHING).weights) == pytest.approx(weights, abs=2e-4)


def test_only_the_prompts_tail_is_read_where_so_configured(artifact: Path) -> None:
    tail = _load(artifact, options=DlpOptions(prompt_characters=5))
    assert tail.version != _load(artifact).version
    expected = _load(artifact).route("delta", EVERYTHING)
    assert tail.route("alpha beta gamma delta", EVERYTHING) == expected


def test_the_front_routes_without_torch() -> None:
    check = (
        "import sys; import router_service.service, router_service.reader;"
        "import router_service.router_kinds, router_service.decision_store.redis_store;"
        "sys.exit(bool({'torch', 'transformers', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
