"""Checks that what front, replica and controller start with ends in reverse, whatever fails."""

from pathlib import Path
from typing import Any, cast

import pytest

from cluster.adapters.catalog import AdapterCatalog
from cluster.base_model.source import ModelLocation
from cluster.config import AppConfig
from cluster.errors import ConfigError
from deployments.cluster_secrets import Secrets, read_secrets
from deployments.process import Process, scan_adapters
from tests.support.manual_clock import ManualClock


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(
        config=AppConfig(),
        secrets=Secrets("redis://127.0.0.1:1", b"k" * 16),
        clock=ManualClock(),
        base=ModelLocation(tmp_path, "org/base", "digest"),
        adapters=cast("Any", None),
    )


async def test_parts_end_in_the_reverse_of_their_order(process: Process) -> None:
    ended: list[str] = []

    async def end(name: str) -> None:
        ended.append(name)

    process.on_close(lambda: end("first"))
    process.on_close_sync(lambda: ended.append("second"))
    process.on_close(lambda: end("third"))
    await process.close()
    assert ended == ["third", "second", "first"]


async def test_a_part_that_fails_keeps_no_other_from_ending(process: Process) -> None:
    ended: list[str] = []

    async def fail() -> None:
        raise RuntimeError("stuck")

    process.on_close_sync(lambda: ended.append("first"))
    process.on_close(fail)
    process.on_close_sync(lambda: ended.append("last"))
    with pytest.raises(RuntimeError, match="stuck"):
        await process.close()
    assert ended == ["last", "first"]


@pytest.mark.parametrize("missing", ["redis_url", "signing_key"])
def test_a_missing_secret_is_named_with_both_places(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BRAID_REDIS_URL", "BRAID_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)
    given = {"redis_url": "redis://127.0.0.1:1", "signing_key": "k" * 16}
    del given[missing]
    with pytest.raises(ConfigError, match=f"{missing}: .*BRAID_{missing.upper()}"):
        read_secrets(AppConfig.model_validate(given))


def test_without_a_folder_there_are_no_adapters() -> None:
    assert scan_adapters(AppConfig(), "org/base").entries == AdapterCatalog().entries
