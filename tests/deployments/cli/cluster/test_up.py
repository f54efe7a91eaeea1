"""`braid up` checks everything before it starts anything."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.adapter_store import ContentStore
from cluster.adapters.registry.journal import Journal, JournalFile
from cluster.adapters.registry.records import HistoryStep, Name
from cluster.adapters.registry.redis_store import registry_name
from cluster.adapters.sources import FolderSource
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.base_model import source as model_source
from cluster.base_model.source import ModelLocation
from cluster.config import AppConfig, Settings
from cluster.domain.adapter import SHARED_OWNER
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.engine.memory import available_memory
from cluster.errors import ConfigError
from cluster.tenancy.keys import hash_key
from deployments.cli.cluster import launch
from deployments.cli.cluster.launch import (
    Wish,
    _check_profile,
    check_machine,
    check_redis,
    differences,
    plan_launch,
)
from deployments.local import gpus
from deployments.local.gpus import Share
from deployments.local.local_state import StateDir, write_run

Braid = Callable[..., Any]


@pytest.fixture(autouse=True)
def nothing_starts(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No command of this file may get as far as the model, a process or a secret."""

    def fetch(*_: object) -> None:
        raise AssertionError("the model was asked for")

    monkeypatch.setattr(model_source, "resolve_model", fetch)
    yield
    assert not state.log.exists()
    assert not state.keys.exists()


def plan(state: StateDir, **options: Any) -> Any:
    return plan_launch(Wish(**options), state, Settings())


def test_a_typo_in_the_policy_is_refused_with_its_path(
    braid: Braid, state: StateDir, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("placement: {paybak: 3}\n")
    result = braid("up", "--no-demo", "--policy", policy)
    assert result.exit_code == 1
    assert f"{policy}:1: placement.paybak: unknown key" in result.stderr
    assert 'did you mean "payback"?' in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("option", ["--policy", "--tenants", "--adapters"])
def test_a_missing_file_is_named(
    braid: Braid, state: StateDir, tmp_path: Path, option: str
) -> None:
    missing = tmp_path / "missing"
    no_demo = [] if option == "--adapters" else ["--no-demo"]
    result = braid("up", *no_demo, option, missing)
    assert result.exit_code == 1
    assert str(missing) in result.stderr


def test_a_cost_profile_that_is_none_is_refused(state: StateDir, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text("{}")
    launch = plan(state, no_demo=True, cost_profile=path)
    assert launch.config.controller.cost_profile == path
    with pytest.raises(ConfigError, match=rf"{path}: version"):
        _check_profile(launch.config, ModelLocation(tmp_path, "org/tiny", "a" * 64))


def test_a_taken_port_is_refused(braid: Braid, state: StateDir) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = braid("up", "--no-demo", "--port", port)
    assert result.exit_code == 1
    assert f"port {port} on 127.0.0.1 is taken by process" in result.stderr
    assert "--port" in result.stderr


def test_quantised_weights_reach_the_engine(state: StateDir) -> None:
    assert plan(state, no_demo=True).config.engine.quantize == "none"
    assert plan(state, no_demo=True, quantize="int8").config.engine.quantize == "int8"


def test_gpus_are_given_one_to_each_replica(
    state: StateDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without = plan(state, no_demo=True)
    assert (without.config.replica.replicas, without.config.replica.num_gpus) == (2, 0)
    monkeypatch.setattr(launch, "share_out", lambda *_, **__: Share(4, 1))
    config = plan(state, no_demo=True, gpus=4, device="cuda").config
    assert (config.replica.replicas, config.replica.num_gpus) == (4, 1)
    assert config.engine.device == "cuda"
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 2\nreplicas: {min: 5, max: 5}\n")
    with pytest.raises(ConfigError, match=r"asks for 5 replicas, one GPU each, and 4 are used"):
        plan(state, no_demo=True, gpus=4, policy=policy)


def test_an_engine_that_is_not_there_is_refused(braid: Braid, state: StateDir) -> None:
    result = braid("up", "--no-demo", "--engine", "other")
    assert result.exit_code == 1
    assert "engine.kind" in result.stderr
    assert plan(state, no_demo=True, engine="braid").config.replica.replicas == 2


def test_a_gpu_is_asked_for_in_vain(
    braid: Braid, state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "has_nvidia_device", lambda: False)
    result = braid("up", "--no-demo", "--gpus", "1")
    assert result.exit_code == 1
    assert "no GPU was found" in result.stderr


def test_wrong_values_are_named(braid: Braid, state: StateDir) -> None:
    result = braid("up", "--no-demo", "--dtype", "float8")
    assert result.exit_code == 1
    assert "engine.dtype" in result.stderr
    result = braid("up", "--no-demo", "--quantize", "int4")
    assert result.exit_code == 1
    assert "engine.quantize" in result.stderr
    assert braid("up", "--replicas", "0").exit_code == 2
    assert braid("up", "--port", "70000").exit_code == 2


def test_no_demo_beside_adapters_is_refused(
    braid: Braid, state: StateDir, adapters: Callable[..., Path]
) -> None:
    result = braid("up", "--no-demo", "--adapters", adapters("one"))
    assert result.exit_code == 1
    assert "--no-demo" in result.stderr


def test_a_folder_without_a_good_adapter_is_refused_with_each_reason(
    braid: Braid, state: StateDir, adapters: Callable[..., Path]
) -> None:
    folder = adapters("one", "two", config={"use_dora": True})
    result = braid("up", "--adapters", folder)
    assert result.exit_code == 1
    assert str(folder) in result.stderr
    assert "one:" in result.stderr
    assert "two:" in result.stderr


def test_a_router_folder_must_exist(braid: Braid, state: StateDir, tmp_path: Path) -> None:
    result = braid("up", "--no-demo", "--router", f"mine={tmp_path}/none")
    assert result.exit_code == 1
    assert f"{tmp_path}/none is not a directory" in result.stderr


def test_folders_may_be_added_from_the_state_folder_or_another(
    state: StateDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unset = plan(state, no_demo=True).config.adapters
    assert (unset.source_dir, unset.source_urls) == (state.sources.resolve(), ())
    assert state.sources.is_dir()
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert plan(state, sources=Path("mine")).config.adapters.source_dir == tmp_path / "mine"


def test_what_must_agree_of_a_base(braid: Braid, state: StateDir) -> None:
    assert plan(state).config.adapters.base_check == "name"
    assert plan(state, base_check="shapes").config.adapters.base_check == "shapes"
    assert plan(state, no_demo=True).config.adapters.base_check == "digest"
    result = braid("up", "--base-check", "colour")
    assert result.exit_code == 1
    assert "adapters.base_check" in result.stderr


def test_sources_must_be_a_folder(braid: Braid, state: StateDir, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("none", "file"):
        result = braid("up", "--no-demo", "--sources", tmp_path / name)
        assert result.exit_code == 1
        assert f"{tmp_path / name} is not a directory" in result.stderr


def test_urls_to_fetch_from_reach_the_fronts(state: StateDir) -> None:
    urls = ("s3://", "https://models.example.com:8443/adapters/")
    assert plan(state, source_urls=urls).config.adapters.source_urls == urls


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("models.example.com", "expected a scheme"),
        ("https:models.example.com", "expected a scheme"),
        ("https:///adapters", "expected a scheme"),
        ("https://models.example.com/adapters?token=hush", "without query"),
        ("https://models.example.com/a b", "expected a scheme"),
        ("file:///etc", "expected a scheme"),
        ("file://", "never permitted"),
        ("https://me:hush@models.example.com", "without user and password"),
        ("https://models.example.com/../x", "without '..'"),
        ("https://models.example.com:port", "not a URL"),
        ("https://[", "not a URL"),
    ],
)
def test_urls_that_permit_nothing_or_too_much_are_refused(
    braid: Braid, state: StateDir, url: str, why: str
) -> None:
    result = braid("up", "--no-demo", "--source-url", "s3://", "--source-url", url)
    assert result.exit_code == 1
    assert "--source-url " in result.stderr
    assert why in " ".join(result.stderr.split())
    assert "hush" not in result.stderr


def test_rights_to_adapters_that_do_not_exist_are_refused(
    braid: Braid, state: StateDir, adapters: Callable[..., Path], tmp_path: Path
) -> None:
    tenants = tmp_path / "tenants.yaml"
    tenants.write_text(f"tenants: [{{id: a, keys: [{hash_key('k')}], adapters: [one, tow]}}]")
    result = braid("up", "--adapters", adapters("one", "two"), "--tenants", tenants)
    assert result.exit_code == 1
    assert "tenants[0].adapters[1]: no adapter 'tow'" in result.stderr


def test_names_that_exist_in_the_registry_alone_are_accepted(
    state: StateDir, adapters: Callable[..., Path], tmp_path: Path
) -> None:
    """Read from the journal that the cluster left when it ran."""
    tenants = tmp_path / "tenants.yaml"
    tenants.write_text(f"tenants: [{{id: a, keys: [{hash_key('k')}], adapters: [one, added]}}]")
    folder = adapters("one")
    with pytest.raises(ConfigError, match="no adapter 'added'"):
        plan(state, adapters=folder, tenants=tenants)
    base = BaseShapes("", {"model.layers.0.self_attn.q_proj": (8, 8)})
    store = ContentStore(state.adapter_store, AdapterLimits(), base)
    stored = asyncio.run(store.add(FolderSource(folder, "one")))
    steps = (HistoryStep(stored.digest, 1.0, "admin"),)
    names = (
        Name(SHARED_OWNER, "added", steps),
        Name(SHARED_OWNER, "gone", (HistoryStep(AdapterDigest("a" * 64), 1.0, "admin"),)),
        Name(TenantId("acme"), "own", steps),
    )
    base_name = registry_name(AppConfig().model)
    JournalFile(state.adapter_store, base_name).write(Journal("id", names))
    launch = plan(state, adapters=folder, tenants=tenants)
    assert launch.registered.keys() == {"added"}
    assert launch.registered["added"].manifest == stored.manifest
    with pytest.raises(ConfigError, match="no adapter 'added'"):
        plan(state, adapters=folder, tenants=tenants, model=str(tmp_path))
    JournalFile(state.adapter_store, base_name).path.write_text("{")
    with pytest.raises(ConfigError, match="registry"):
        plan(state, adapters=folder, tenants=tenants)


def test_an_unreachable_redis_is_refused_without_its_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ConfigError, match=f"redis 127.0.0.1:{port}") as refused:
            check_redis(f"redis://:hush@127.0.0.1:{port}/0")
    assert "hush" not in refused.value.message
    with pytest.raises(ConfigError, match="--redis-url"):
        check_redis("http://nowhere")


def test_own_adapters_are_shared_among_the_demo_tenants(
    state: StateDir, adapters: Callable[..., Path]
) -> None:
    launch = plan(state, adapters=adapters("a", "b", "c"))
    assert launch.rights == {"acme": ("a", "b", "c"), "globex": ("a", "b")}
    assert launch.config.tenants_file == state.tenants


def test_paths_are_absolute_because_the_supervisor_works_elsewhere(
    state: StateDir,
    adapters: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapters("a")
    (tmp_path / "policy.yaml").write_text("replicas: {min: 3, max: 4}")
    (tmp_path / "model").mkdir()
    (tmp_path / "router").mkdir()
    monkeypatch.chdir(tmp_path)
    launch = plan(
        state,
        adapters=Path("adapters"),
        policy=Path("policy.yaml"),
        model="model",
        routers=("router", "other=router"),
    )
    config = launch.config
    assert config.adapters_dir == tmp_path / "adapters"
    assert config.controller.policy_file == tmp_path / "policy.yaml"
    assert config.model == str(tmp_path / "model")
    assert [(r.name, r.path) for r in config.routers] == [
        ("router", tmp_path / "router"),
        ("other", tmp_path / "router"),
    ]
    assert launch.replicas == 3, "the policy file says how many must be ready"


def test_a_cluster_that_may_be_empty_starts_with_one_replica(state: StateDir) -> None:
    policy = state.root / "policy.yaml"
    policy.write_text("replicas: {min: 0, max: 4, zero_after: 60}")
    assert plan(state, no_demo=True, policy=policy).replicas == 1


def test_redis_from_the_environment_counts_like_the_option(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAID_REDIS_URL", "redis://env:1/0")
    from_environment = plan(state, no_demo=True).config.redis_url
    from_option = plan(state, no_demo=True, redis_url="redis://option:1/0").config.redis_url
    assert from_environment.get_secret_value() == "redis://env:1/0"
    assert from_option.get_secret_value() == "redis://option:1/0"


def test_differences_are_paths_and_an_equal_wish_has_none(state: StateDir) -> None:
    launch = plan(state, no_demo=True, redis_url="redis://one:1/0")
    write_run(state, launch.config)
    assert differences(state, launch.config) == []
    other = plan(state, no_demo=True, redis_url="redis://two:1/0", slots=3, port=8123)
    assert differences(state, other.config) == ["adapters.slots", "front.port", "redis_url"]
    state.run.unlink()


def test_another_configuration_needs_braid_down_first(
    braid: Braid, state: StateDir, supervisor: Callable[..., Any]
) -> None:
    write_run(state, plan(state, no_demo=True, port=8123).config)
    process = supervisor()
    result = braid("up", "--no-demo", "--port", "8124")
    assert result.exit_code == 1
    assert str(process.pid) in result.stderr
    assert "differs in front.port" in result.stderr
    assert "braid down" in result.stderr
    assert process.poll() is None


def test_a_running_cluster_that_does_not_answer_is_said(
    braid: Braid, state: StateDir, supervisor: Callable[..., Any]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        write_run(state, plan(state, no_demo=True, port=port).config)
        supervisor(port=port, phase="loading the model")
        result = braid("up", "--no-demo", "--port", port)
    assert result.exit_code == 1
    assert "no replica answers" in result.stderr
    assert "loading the model" in result.stderr


def test_the_defaults_stay_those_of_the_configuration(state: StateDir) -> None:
    config = plan(state, no_demo=True, threads=1).config
    written = json.loads(config.model_dump_json(exclude_unset=True))
    assert "host" not in written.get("front", {})
    assert config.front == AppConfig().front
    assert written["adapters"] == {"source_dir": str(state.sources)}
    assert config.adapters.model_copy(update={"source_dir": None}) == AppConfig().adapters


def test_replicas_that_do_not_fit_together_are_refused(
    state: StateDir, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = plan(state, no_demo=True, replicas=2)
    model = ModelLocation(tiny_model("llama"), "tiny", "digest")
    monkeypatch.setattr(available_memory, "device_type", lambda _: "cpu")
    check_machine(launch, model)
    monkeypatch.setattr(available_memory, "available_bytes", lambda _: 2**29)
    with pytest.raises(ConfigError, match=r"does not fit.*for each of 2 replicas.*fewer replicas"):
        check_machine(launch, model)


def test_a_python_that_is_not_there_is_refused(
    braid: Braid, state: StateDir, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"engine: {{kind: vllm, vllm: {{python: {tmp_path / 'python'}}}}}\n")
    result = braid("up", "--no-demo", "--config", str(file))
    assert result.exit_code == 1
    assert "engine.vllm.python" in result.stderr


def test_a_device_that_does_not_exist_is_refused(braid: Braid, state: StateDir) -> None:
    result = braid("up", "--no-demo", "--device", "tpu")
    assert result.exit_code == 1
    assert "engine.device: Input should be 'auto', 'cpu' or 'cuda'" in result.stderr
