"""A process starts with its routers, whatever has become of their adapters meanwhile."""

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cluster.adapters.catalog import AdapterCatalog
from cluster.config import AppConfig
from cluster.engine.model_source import ModelLocation
from cluster.errors import ConfigError
from deployments.live_routers import bound_generations, build_parts, build_routers
from deployments.local.demo import DEMO_ADAPTERS, DEMO_ROUTER
from router_service.routers.static import save_static


@pytest.fixture
def base(tmp_path: Path) -> ModelLocation:
    config = {"num_hidden_layers": 2, "hidden_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return ModelLocation(tmp_path, "org/base", "digest")


def test_a_candidate_that_is_not_there_is_no_reason_to_stop(base: ModelLocation) -> None:
    config = AppConfig.model_validate({"routers": [{"name": "dlp", "path": DEMO_ROUTER}]})
    entries = dict(AdapterCatalog.scan(DEMO_ADAPTERS).entries)
    del entries["cron"]
    with capture_logs() as logs:
        routers = build_routers(config, entries, base)
    assert "cron" in routers["dlp"].candidates
    assert [entry["alias"] for entry in logs] == ["cron"]
    assert build_parts(config, entries, base) == {}
    assert bound_generations(config) == {"dlp": {}}


def test_a_candidate_of_another_generation_is_no_reason_to_stop(base: ModelLocation) -> None:
    path = base.path / "mixed"
    entries = AdapterCatalog.scan(DEMO_ADAPTERS).entries
    digests = {"sql": str(entries["sql"].key.digest), "cron": "f" * 64}
    save_static(path, {"sql": 0.5, "cron": 0.5}, adapter_digests=digests)
    config = AppConfig.model_validate({"routers": [{"name": "mixed", "path": path}]})
    with capture_logs() as logs:
        routers = build_routers(config, entries, base)
    assert routers["mixed"].candidates == ("sql", "cron")
    assert [entry["event"] for entry in logs] == ["router.candidate_replaced"]
    assert bound_generations(config) == {"mixed": digests}


def test_an_artifact_that_is_broken_is(base: ModelLocation) -> None:
    path = base.path / "mixed"
    save_static(path, {"sql": 1.0})
    (path / "router.safetensors").write_bytes(b"cut")
    config = AppConfig.model_validate({"routers": [{"name": "mixed", "path": path}]})
    with pytest.raises(ConfigError, match="safetensors"):
        build_routers(config, AdapterCatalog.scan(DEMO_ADAPTERS).entries, base)
