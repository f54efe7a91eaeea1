"""Static mixtures as routers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.adapters.catalog import AdapterCatalog
from cluster.config import RouterConfig
from cluster.domain.adapter import AdapterEntry, AdapterKey, AdapterManifest
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import ConfigError
from router_service.artifacts import MANIFEST_FILE, save_artifact
from router_service.router_kinds import default_registry
from router_service.routers.base import RouterFailed
from router_service.routers.kind import RouterContext
from router_service.routers.static import save_static

ALIASES = frozenset({"sql", "cron", "json"})


def _entry(alias: str, digest: str) -> AdapterEntry:
    key = AdapterKey(TenantId("shared"), alias, AdapterDigest(digest))
    manifest = AdapterManifest(AdapterDigest(digest), 8, 16.0, False, (), (), 8, 1, None, None)
    return AdapterEntry(key, manifest, "")


CATALOG = AdapterCatalog([_entry(alias, f"d-{alias}") for alias in sorted(ALIASES)])
CONTEXT = RouterContext(aliases=ALIASES, max_mixture=3, adapters=CATALOG.entries)


def _build(path: Path, context: RouterContext = CONTEXT):
    return default_registry().build(RouterConfig(name="mine", path=path), context)


def test_every_prompt_gets_the_mixture(tmp_path: Path) -> None:
    save_static(tmp_path, {"sql": 0.70004, "json": -1.25, "cron": 0.0})
    router = _build(tmp_path)
    for text in ("", "anything"):
        assert router.route(text, ALIASES).weights == (("sql", 0.7), ("json", -1.25))
    assert router.route("", frozenset({"sql", "json"})).weights
    assert router.declares.needs == frozenset()


def test_an_artifact_with_a_weight_that_is_none_is_refused(tmp_path: Path) -> None:
    manifest = save_static(tmp_path, {"sql": 1.0})
    save_artifact(tmp_path, manifest, {"weights": np.array([-1e38])})
    with pytest.raises(ConfigError, match=r"sql=-1e\+38: expected a weight of at most 1000"):
        _build(tmp_path)


def test_a_tenant_without_one_of_the_adapters_gets_no_part_of_it(tmp_path: Path) -> None:
    save_static(tmp_path, {"sql": 0.5, "json": 0.5})
    with pytest.raises(RouterFailed, match="a mixture with json"):
        _build(tmp_path).route("text", frozenset({"sql", "cron"}))


def test_a_mixture_larger_than_is_served_is_refused(tmp_path: Path) -> None:
    save_static(tmp_path, {"sql": 1, "json": 1, "cron": 1})
    with pytest.raises(ConfigError, match=r"routers\.mine: max_fan_out: .* up to 3 adapters"):
        _build(tmp_path, replace(CONTEXT, max_mixture=2))


def test_a_searched_mixture_is_bound_to_its_versions(tmp_path: Path) -> None:
    digests = {"sql": "d-sql", "json": "d-other"}
    save_static(tmp_path, {"sql": 1, "json": 1}, adapter_digests=digests)
    with pytest.raises(ConfigError, match=r"adapter_digests\.json: made for version d-other"):
        _build(tmp_path)
    save_static(
        tmp_path, {"sql": 1, "json": 1}, adapter_digests=digests | {"json": "d-json"},
        overwrite=True,
    )  # fmt: skip
    assert _build(tmp_path).route("", ALIASES).weights == (("sql", 1.0), ("json", 1.0))


def test_the_version_follows_the_weights_and_the_adapters(tmp_path: Path) -> None:
    versions = [
        save_static(tmp_path, weights, adapter_digests=digests, overwrite=True).version
        for weights in ({"sql": 1.0, "json": 0.5}, {"sql": 1.0, "json": 0.5001})
        for digests in (None, {"sql": "a"}, {"sql": "b"})
    ]
    assert len(set(versions)) == 6


def test_an_edited_mixture_is_refused(tmp_path: Path) -> None:
    save_static(tmp_path, {"sql": 1, "json": 1})
    path = tmp_path / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"candidates": ["json", "sql"]}))
    with pytest.raises(ConfigError, match="version does not match"):
        _build(tmp_path)
    with pytest.raises(ConfigError, match="holds a router already"):
        save_static(tmp_path, {"sql": 1})
    with pytest.raises(ConfigError, match="sql=inf"):
        save_static(tmp_path, {"sql": float("inf")}, overwrite=True)


@pytest.mark.parametrize("weight", [1e38, -1000.5])
def test_a_weight_beyond_what_activations_bear_is_refused(tmp_path: Path, weight: float) -> None:
    with pytest.raises(ConfigError, match=r"sql=.*: expected a weight of at most 1000 either way"):
        save_static(tmp_path / "out", {"sql": weight})
    assert not (tmp_path / "out").exists()
    save_static(tmp_path / "out", {"sql": -1000.0})
