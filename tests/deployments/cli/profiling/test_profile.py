"""Checks `braid bench profile`: what it refuses, and what it writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import AdapterConfig, EngineConfig
from cluster.placement.cost.profile import engine_digest, read_profile
from deployments.cli.profiling import profile_run

Braid = Callable[..., Any]


def test_a_place_that_cannot_be_written_is_refused_first(braid: Braid, tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "none" / "p.json"):
        result = braid("bench", "profile", "--out", out)
        assert result.exit_code == 1
        assert "--out" in result.stderr


def test_a_wrong_setting_is_named(braid: Braid, tmp_path: Path) -> None:
    result = braid("bench", "profile", "--out", tmp_path / "p.json", "--dtype", "float8")
    assert result.exit_code == 1
    assert "engine.dtype" in result.stderr


@pytest.mark.slow
def test_a_tiny_model_is_measured(
    braid: Braid,
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profile_run, "QUICK_BUDGET_S", 2.0)
    out = tmp_path / "p.json"
    model = tiny_model("llama")
    result = braid(
        "bench", "profile", "--out", out, "--model", model, "--threads", 1, "--slots", 2, "--quick"
    )
    assert result.exit_code == 0, result.stderr
    found = read_profile(out)
    found.check_engine(
        found.model_digest, engine_digest(EngineConfig(threads=1), AdapterConfig()), "p"
    )
    assert "1 threads" in found.device
    assert found.observed_s > 0.2
    assert found.step.per_step + found.step.per_decode_row + found.step.per_prefill_token > 0
    assert found.start_s > 0
