"""A process has its routers, whatever becomes of their adapters, and those that are added."""

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cluster.adapters.catalog import AdapterCatalog
from cluster.adapters.registry.records import RouterRecord
from cluster.adapters.registry.registry_view import RegistryView
from cluster.base_model.source import ModelLocation
from cluster.config import AppConfig, RouterConfig
from cluster.errors import ConfigError
from deployments.local.quickstart import DEMO_ADAPTERS, DEMO_ROUTER
from deployments.router_build import (
    bound_versions,
    build_part,
    build_router,
    candidates_of,
    fingerprint,
    router_configs,
)
from router_service.routers.static import save_static

CONFIG = AppConfig()


@pytest.fixture
def base(tmp_path: Path) -> ModelLocation:
    config = {"num_hidden_layers": 2, "hidden_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return ModelLocation(tmp_path, "org/base", "digest")


def test_a_candidate_that_is_not_there_is_no_reason_to_stop(base: ModelLocation) -> None:
    config = RouterConfig(name="dlp", path=DEMO_ROUTER)
    entries = dict(AdapterCatalog.scan(DEMO_ADAPTERS).entries)
    del entries["cron"]
    with capture_logs() as logs:
        router = build_router(CONFIG, config, entries, base)
    assert "cron" in router.candidates
    assert [entry["alias"] for entry in logs] == ["cron"]
    assert build_part(CONFIG, config, entries, base) == {}
    assert bound_versions(config) == {}
    assert set(candidates_of(config)) == {"cron", *entries}


def test_a_candidate_of_another_version_is_no_reason_to_stop(base: ModelLocation) -> None:
    path = base.path / "mixed"
    entries = AdapterCatalog.scan(DEMO_ADAPTERS).entries
    digests = {"sql": str(entries["sql"].key.digest), "cron": "f" * 64}
    save_static(path, {"sql": 0.5, "cron": 0.5}, adapter_digests=digests)
    config = RouterConfig(name="mixed", path=path)
    with capture_logs() as logs:
        router = build_router(CONFIG, config, entries, base)
    assert router.candidates == ("sql", "cron")
    assert [entry["event"] for entry in logs] == ["router.candidate_replaced"]
    assert bound_versions(config) == digests


def test_an_artifact_that_is_broken_is(base: ModelLocation) -> None:
    path = base.path / "mixed"
    save_static(path, {"sql": 1.0})
    (path / "router.safetensors").write_bytes(b"cut")
    config = RouterConfig(name="mixed", path=path)
    with pytest.raises(ConfigError, match="safetensors"):
        build_router(CONFIG, config, AdapterCatalog.scan(DEMO_ADAPTERS).entries, base)


def test_added_routers_stand_before_their_namesakes_and_after_the_others(tmp_path: Path) -> None:
    config = AppConfig.model_validate(
        {
            "adapters": {"store_dir": tmp_path},
            "routers": [{"name": "first", "path": "/a"}, {"name": "second", "path": "/b"}],
        }
    )
    added = {
        name: RouterRecord(name, "dlp", "v" * 64, at, at, "admin", {"top_p": 0.5})
        for name, at in (("late", 3.0), ("first", 2.0), ("early", 1.0))
    }
    found = router_configs(config, RegistryView(routers=added))
    assert [router.name for router in found] == ["first", "second", "early", "late"]
    assert found[0].path == tmp_path / "routers" / ("v" * 64)
    assert found[0].options == {"top_p": 0.5}
    assert found[1].path == Path("/b")
    plain = AppConfig.model_validate({"routers": [{"name": "first", "path": "/a"}]})
    (only,) = router_configs(plain, RegistryView())
    assert only.path == Path("/a")


def test_only_what_is_made_of_adapters_follows_their_versions() -> None:
    entries = dict(AdapterCatalog.scan(DEMO_ADAPTERS).entries)
    trained = RouterConfig(name="dlp", path=DEMO_ROUTER)
    arrow = RouterConfig(name="arrow", kind="arrow", options={"adapters": ["sql", "cron"]})
    before = {router.name: fingerprint(router, entries) for router in (trained, arrow)}
    entries["sql"] = entries["json"]
    assert fingerprint(trained, entries) == before["dlp"]
    assert fingerprint(arrow, entries) != before["arrow"]
    other = arrow.model_copy(update={"options": {"adapters": ["sql", "cron"], "top_k": 1}})
    assert fingerprint(other, entries) != fingerprint(arrow, entries)
