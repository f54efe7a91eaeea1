"""Checks which costs a controller begins with."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cluster.config import AppConfig
from cluster.placement.cost.model import CostModel
from cluster.placement.cost.profile import (
    CostProfile,
    LoadProfile,
    StepProfile,
    engine_digest,
    write_profile,
)
from deployments.controller.cost_priors import RETRY_S, CostPriors
from deployments.local.valkey import EmbeddedValkey

pytestmark = pytest.mark.redis
MODEL = "a" * 64
DEVICE = "cpu: one, 2 threads"


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
async def logs(valkey: EmbeddedValkey) -> AsyncIterator[list]:
    """An empty server, and the log entries of the test."""
    priors = CostPriors(AppConfig(), MODEL, valkey.url)
    await priors._redis.flushall()
    await priors.close()
    with capture_logs() as entries:
        yield entries


def profile(path: Path, model: str = MODEL, device: str = DEVICE, **engine: object) -> Path:
    config = AppConfig.model_validate({"engine": engine})
    found = CostProfile(
        version=1,
        model="org/tiny",
        model_digest=model,
        engine_digest=engine_digest(config.engine, config.adapters),
        device=device,
        step=StepProfile(
            per_step=0.5,
            per_prefill_token=0,
            per_decode_row=0,
            per_context_block=0,
            per_adapter_byte=0,
            per_rank_row=0,
        ),
        host_load=LoadProfile(latency=0, per_byte=0),
        disk_load=LoadProfile(latency=0, per_byte=0),
        start_s=1,
        r2=1,
        observed_s=1,
    )
    write_profile(found, path)
    return path


async def find(valkey: EmbeddedValkey, path: Path | None, device: str = DEVICE, model: str = MODEL):
    config = AppConfig.model_validate({"controller": {"cost_profile": path}})
    priors = CostPriors(config, model, valkey.url)
    try:
        return await priors.find(device)
    finally:
        await priors.close()


async def test_without_a_profile_the_defaults_are_used(valkey: EmbeddedValkey) -> None:
    prior = await find(valkey, None)
    assert (prior.costs, prior.source, prior.error) == (CostModel(), "default", None)


async def test_a_profile_is_used_and_kept_for_the_next(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    prior = await find(valkey, profile(tmp_path / "p.json"))
    assert (prior.costs.step.per_step, prior.source, prior.error) == (0.5, "profile", None)
    assert await find(valkey, None) == prior
    assert (await find(valkey, None, device="cuda: big")).source == "default"
    assert (await find(valkey, None, model="b" * 64)).source == "default"


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"model": "b" * 64}, "model_digest"),
        ({"device": "cuda: big"}, "device"),
        ({"threads": 7}, "engine_digest"),
    ],
)
async def test_a_profile_of_something_else_is_refused_and_not_kept(
    valkey: EmbeddedValkey, tmp_path: Path, logs: list, other: dict, named: str
) -> None:
    path = profile(tmp_path / "p.json", **other)
    prior = await find(valkey, path)
    assert (prior.costs, prior.source) == (CostModel(), "default")
    assert f"{path}: {named}: " in prior.error
    assert [entry["event"] for entry in logs] == ["controller.cost_profile_refused"]
    assert (await find(valkey, None)).source == "default"


async def test_a_missing_file_is_told(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    prior = await find(valkey, tmp_path / "none.json")
    assert prior.source == "default"
    assert "none.json: cannot be read" in prior.error


async def test_without_redis_the_file_is_used_and_else_the_defaults(
    tmp_path: Path, logs: list
) -> None:
    class Gone:
        url = "redis://127.0.0.1:1"

    assert (await find(Gone, profile(tmp_path / "p.json"))).source == "profile"
    prior = await find(Gone, None)
    assert (prior.costs, prior.source) == (CostModel(), "default")
    assert prior.error
    assert [entry["log_level"] for entry in logs] == ["warning"] * 3


async def test_costs_stand_while_no_replica_runs(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    config = AppConfig.model_validate(
        {"controller": {"cost_profile": profile(tmp_path / "p.json")}}
    )
    priors = CostPriors(config, MODEL, valkey.url)
    try:
        found = [await priors.find_new(device, 0.0) for device in ("", DEVICE, DEVICE, "", DEVICE)]
    finally:
        await priors.close()
    assert [prior and prior.source for prior in found] == [None, "profile", None, None, None]


async def test_redis_is_asked_again_for_a_profile(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    await find(valkey, profile(tmp_path / "p.json"))
    priors = CostPriors(AppConfig(), MODEL, "redis://127.0.0.1:1")
    here = CostPriors(AppConfig(), MODEL, valkey.url)
    away = priors._redis
    try:
        first = await priors.find_new(DEVICE, 100.0)
        assert first is not None
        assert (first.source, first.final) == ("default", False)
        priors._redis = here._redis  # Redis is back
        assert await priors.find_new(DEVICE, 100.0 + RETRY_S - 0.1) is None
        again = await priors.find_new(DEVICE, 100.0 + RETRY_S)
        assert again is not None
        assert (again.source, again.final) == ("profile", True)
        assert await priors.find_new(DEVICE, 1e9) is None
    finally:
        await away.aclose()
        await here.close()
