"""Checks that a profile is read strictly, and refused where it is of something else."""

import json
from pathlib import Path

import pytest

from cluster.config import AdapterConfig, EngineConfig
from cluster.errors import ConfigError
from cluster.placement.cost.model import LoadCost, StepCost
from cluster.placement.cost.profile import (
    CostProfile,
    engine_digest,
    parse_profile,
    read_profile,
    write_profile,
)

MODEL, ENGINE = "a" * 64, "b" * 64
STEP = {
    "per_step": 0.02,
    "per_prefill_token": 1e-3,
    "per_decode_row": 2e-3,
    "per_context_block": 0.0,
    "per_adapter_byte": 1e-10,
    "per_rank_row": 3e-8,
}
CONTENT = {
    "version": 1,
    "model": "org/tiny",
    "model_digest": MODEL,
    "engine_digest": ENGINE,
    "device": "cpu: one, 2 threads",
    "step": STEP,
    "host_load": {"latency": 0.01, "per_byte": 1e-9},
    "disk_load": {"latency": 0.1, "per_byte": 2e-8},
    "start_s": 12.5,
    "r2": 0.98,
    "observed_s": 60.0,
}


def parse(**changed: object) -> CostProfile:
    return parse_profile(json.dumps(CONTENT | changed).encode(), "p.json")


def test_a_profile_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    write_profile(parse(), path)
    found = read_profile(path)
    assert found == parse()
    assert found.costs.step == StepCost(**STEP)
    assert found.costs.disk_load == LoadCost(0.1, 2e-8)
    assert found.costs.start_s == 12.5


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"version": 2}, "version"),
        ({"spped": 1}, "spped"),
        ({"start_s": -1}, "start_s"),
        ({"start_s": "fast"}, "start_s"),
        ({"r2": 1.5}, "r2"),
        ({"model_digest": "short"}, "model_digest"),
        ({"step": STEP | {"per_step": -0.1}}, "step.per_step"),
        ({"step": STEP | {"per_rank": 0.1}}, "step.per_rank"),
        ({"step": {}}, "step.per_decode_row"),
        ({"host_load": None}, "host_load"),
    ],
)
def test_a_wrong_entry_is_named(changed: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"p\.json: .*{named}: .*braid bench profile"):
        parse(**changed)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null", b'{"start_s": NaN}'])
def test_what_is_not_a_profile_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"p\.json: "):
        parse_profile(content, "p.json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(number: str) -> None:
    text = json.dumps(CONTENT).replace("12.5", number)
    with pytest.raises(ConfigError, match=r"start_s|JSON"):
        parse_profile(text.encode(), "p.json")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read"):
        read_profile(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_profile(parse(), tmp_path)


def test_another_model_engine_or_device_is_refused_with_both_names() -> None:
    profile = parse()
    profile.check_engine(MODEL, ENGINE, "p.json")
    profile.check_device("cpu: one, 2 threads", "p.json")
    with pytest.raises(ConfigError, match=r"p\.json: model_digest: .*org/tiny.*cccccccccccc"):
        profile.check_engine("c" * 64, ENGINE, "p.json")
    with pytest.raises(ConfigError, match=r"p\.json: engine_digest: .*threads.*bench profile"):
        profile.check_engine(MODEL, "c" * 64, "p.json")
    with pytest.raises(ConfigError, match=r"device: .*'cpu: one, 2 threads'.*'cuda: big'"):
        profile.check_device("cuda: big", "p.json")


@pytest.mark.parametrize(
    "changed",
    [{"dtype": "bfloat16"}, {"quantize": "int8"}, {"threads": 3}, {"block_size": 32}],
)
def test_settings_that_change_costs_change_the_digest(changed: dict[str, object]) -> None:
    base = engine_digest(EngineConfig(), AdapterConfig())
    assert engine_digest(EngineConfig(**changed), AdapterConfig()) != base
    assert engine_digest(EngineConfig(), AdapterConfig(dtype="bfloat16")) != base


@pytest.mark.parametrize("changed", [{"kv_blocks": 7}, {"max_batch_size": 3}, {"max_queued": 0}])
def test_settings_that_change_no_cost_leave_it(changed: dict[str, object]) -> None:
    base = engine_digest(EngineConfig(), AdapterConfig())
    assert engine_digest(EngineConfig(**changed), AdapterConfig(slots=3)) == base
