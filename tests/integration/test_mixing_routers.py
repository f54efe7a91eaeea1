"""`auto:<router>` of kinds that decide inside the engine, from HTTP to both replicas and back."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
import redis
import torch

from cluster.adapters.format.manifest import read_manifest
from cluster.base_model.source import ModelLocation
from cluster.config import AppConfig, RouterConfig
from deployments.local.local_state import StateDir
from deployments.local.quickstart import DEMO_ADAPTERS
from router_service.flow.flow_artifact import save_gate
from router_service.flow.flow_schema import FlowHyperparameters
from router_service.flow.gate import initial_bias
from router_service.flow.gate_importer import base_dimensions
from router_service.milora.milora_artifact import save_milora
from router_service.milora.milora_network import tensor_shapes
from router_service.milora.milora_schema import MiloraHyperparameters
from router_service.milora.rational import gelu_coefficients
from testing.local_cluster import LocalCluster
from testing.waiting import wait_for
from tests.integration.conftest import quickstart

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

ROUTED = "braid_engine_routed_prompts_total"


def digest(alias: str) -> str:
    return read_manifest(DEMO_ADAPTERS / alias)[0].digest


def with_mixing(config: AppConfig, state: StateDir, base: ModelLocation) -> AppConfig:
    """Return ``config`` with two gates over sql and shell, and routers over the modules of json."""
    layers, width = base_dimensions(base.path)
    generator = torch.Generator().manual_seed(1)
    routers = list(config.routers)
    for name, scale in (("fresh", 0.0), ("blend", 0.002)):
        save_gate(
            state.root / name,
            adapters={alias: digest(alias) for alias in ("shell", "sql")},
            hyperparameters=FlowHyperparameters(layers=layers, hidden_size=width),
            base_digest=base.digest,
            data_digest="",
            weight=torch.randn(layers, 2, width, generator=generator) * scale,
            bias=initial_bias(2, 1).repeat(layers, 1),
        )
        routers.append(RouterConfig(name=name, path=state.root / name))
    numerator, denominator = gelu_coefficients()
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.01
        for name, shape in tensor_shapes(layers, width, "self_attention").items()
    }
    tensors |= {
        "numerator": numerator.repeat(layers, 1),
        "denominator": denominator.repeat(layers, 1),
    }
    save_milora(
        state.root / "modules",
        alias="json",
        digest=digest("json"),
        hyperparameters=MiloraHyperparameters(top_k=3, layers=layers, hidden_size=width),
        base_digest=base.digest,
        data_digest="",
        tensors=tensors,
    )
    routers.append(RouterConfig(name="modules", path=state.root / "modules"))
    return config.model_copy(update={"routers": tuple(routers)})


@pytest.fixture(scope="module")
def fused(
    base_model: ModelLocation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalCluster]:
    def make_config(state: StateDir, port: int) -> AppConfig:
        return with_mixing(quickstart(state, port), state, base_model)

    cluster = LocalCluster.start(tmp_path_factory.mktemp("state"), make_config)
    try:
        yield cluster
    finally:
        cluster.stop()
    assert cluster.leftover == []


def fresh(text: str) -> str:
    """Return a prompt that no earlier run has asked."""
    return f"{text} ({time.time_ns()})"


def test_an_untrained_gate_answers_like_its_target(fused: LocalCluster) -> None:
    prompt = fresh("Count the orders of each customer")
    gated = fused.complete("acme", "auto:fresh", prompt)
    assert gated.status_code == 200, gated.text
    assert gated.headers["x-braid-decision-source"] == "computed"
    target = fused.complete("acme", "sql", prompt)
    assert gated.json()["choices"] == target.json()["choices"]
    again = fused.complete("acme", "auto:fresh", prompt)
    assert again.headers["x-braid-decision-source"] == "stored"
    assert again.json()["choices"] == gated.json()["choices"]


def test_an_answer_tells_the_gates_weights_on_request(fused: LocalCluster) -> None:
    answer = fused.complete("acme", "auto:blend", fresh("Count the orders"), explain=True).json()
    (choice,) = answer["choices"]
    assert choice["explain"]["adapters"] == ["shell", "sql"]
    weights = choice["explain"]["gate_weights"]
    assert len(weights) == answer["usage"]["completion_tokens"]
    assert {(len(token), len(layer)) for token in weights for layer in token} == {(30, 2)}
    assert any(abs(layer[1] - 1) > 0.01 for token in weights for layer in token)


def test_gated_and_other_requests_share_batches(fused: LocalCluster) -> None:
    prompts = {
        model: fresh("Show all files larger than 10 MB")
        for model in ("auto:blend", "auto:fresh", "auto:modules", "auto", "sql", "base")
    }

    def ask(model: str) -> object:
        name = "HuggingFaceTB/SmolLM2-135M-Instruct" if model == "base" else model
        answer = fused.complete("acme", name, prompts[model])
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"]

    alone = {model: ask(model) for model in prompts}
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = dict(zip(prompts, pool.map(ask, prompts), strict=True))
    assert together == alone


def test_a_tenant_without_all_adapters_gets_the_base(fused: LocalCluster) -> None:
    answer = fused.complete("globex", "auto:blend", fresh("hello"))
    assert answer.headers["x-braid-decision-source"] == "fallback"


def test_a_prompts_modules_are_chosen_once_for_the_whole_cluster(fused: LocalCluster) -> None:
    prompt = fresh("Make JSON of: name Ann, age 31")
    routed = fused.metric(ROUTED)
    first = fused.complete("acme", "auto:modules", prompt)
    assert first.status_code == 200, first.text
    decision = first.headers["x-braid-decision"]
    with redis.Redis.from_url(fused.redis_url) as store:
        (key,) = [name for name in store.scan_iter("braid:*") if decision.encode() in name]

        def written() -> dict | None:
            return msgspec.json.decode(store.get(key))["decision"]["site_weights"]

        weights = wait_for("decision completed", written, 20)
    assert sorted(set(weights["weights"][0])) == [0, 1]
    assert sum(weights["weights"][0]) == 3 * len(weights["sites"]) / 7
    with ThreadPoolExecutor(6) as pool:
        repeats = list(pool.map(lambda _: fused.complete("acme", "auto:modules", prompt), range(6)))
    replicas = {answer.headers["x-braid-replica"] for answer in repeats}
    for answer in repeats:
        assert answer.headers["x-braid-decision-source"] == "stored"
        assert answer.json()["choices"] == first.json()["choices"]
    shown = fused.post(
        "/v1/route", "acme", {"model": "auto:modules", "prompt": prompt, "explain": True}
    ).json()
    assert shown["id"] == decision
    masks = shown["explain"]["layers"]["weights"]
    assert [sum(layer) for layer in masks] == [3] * len(masks)
    wait_for("metrics", lambda: fused.metric(ROUTED) >= routed + 1, 20)
    assert fused.metric(ROUTED) == routed + 1, replicas


def test_another_history_is_another_prompt(fused: LocalCluster) -> None:
    """Routers read the last message; a mask is of everything that is prefilled."""
    question = fresh("And as JSON?")
    decisions = set()
    for first in ("Ann is 31.", "Bob is 45 and lives in Rome."):
        messages = [
            {"role": "user", "content": first},
            {"role": "assistant", "content": "ok"},
            {"role": "user", "content": question},
        ]
        body = {"model": "auto:modules", "messages": messages, "max_tokens": 4, "temperature": 0}
        answer = fused.post("/v1/chat/completions", "acme", body)
        assert answer.status_code == 200, answer.text
        decisions.add(answer.headers["x-braid-decision"])
    assert len(decisions) == 2
