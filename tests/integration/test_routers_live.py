"""Routers that are added, replaced and removed while the cluster serves, and their adapters too."""

import contextlib
import io
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.adapters.format.manifest import read_manifest
from cluster.base_model.source import ModelLocation
from deployments.cli.adapters.pack import packed as packed_adapter
from deployments.cli.routers.router_remote import packed
from deployments.local.quickstart import DEMO_ADAPTERS
from router_service.flow.flow_artifact import save_gate
from router_service.flow.flow_schema import FlowHyperparameters
from router_service.flow.gate import initial_bias
from router_service.flow.gate_importer import base_dimensions
from router_service.milora.milora_artifact import save_milora
from router_service.milora.milora_network import tensor_shapes
from router_service.milora.milora_schema import MiloraHyperparameters
from router_service.milora.rational import gelu_coefficients
from router_service.routers.static import save_static
from testing.local_cluster import LocalCluster

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

ROUTERS, ADAPTERS = "/admin/v1/routers", "/admin/v1/adapters"


def fresh(text: str) -> str:
    """Return a prompt that no earlier run has asked."""
    return f"{text} ({time.time_ns()})"


def add(cluster: LocalCluster, name: str, folder: Path, **query: str) -> Any:
    with packed(folder) as archive:
        return cluster.upload(ROUTERS, "admin", archive.read(), name=name, **query)


def add_adapter(cluster: LocalCluster, name: str, folder: Path, **query: str) -> str:
    with packed_adapter(folder) as archive:
        answer = cluster.upload(ADAPTERS, "admin", archive.read(), name=name, **query)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["version"])


@contextlib.contextmanager
def removed_after(cluster: LocalCluster, *paths: str) -> Iterator[None]:
    try:
        yield
    finally:
        for path in paths:
            cluster.delete(path, "admin")


def retrained(folder: Path, out: Path) -> Path:
    """Write the same adapter with other weights, in bf16 too: another version."""
    out.mkdir()
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({k: v * 1.02 for k, v in tensors.items()}, out / "adapter_model.safetensors")
    (out / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    return out


def alike(got: object, want: object) -> bool:
    """Return whether both agree but for the pick, which is each request's own.

    Of numbers the last digits may differ, which the prefix cache may change.
    """
    if isinstance(want, dict):
        assert isinstance(got, dict)
        return got.keys() == want.keys() and all(
            alike(got[key], want[key]) for key in want if key != "pick"
        )
    if isinstance(want, list):
        assert isinstance(got, list)
        return len(got) == len(want) and all(map(alike, got, want))
    return got == (pytest.approx(want, abs=1e-3) if isinstance(want, float) else want)


def save_gate_of(path: Path, base: ModelLocation, adapters: dict[str, str]) -> str:
    layers, width = base_dimensions(base.path)
    generator = torch.Generator().manual_seed(1)
    manifest = save_gate(
        path,
        adapters=adapters,
        hyperparameters=FlowHyperparameters(layers=layers, hidden_size=width),
        base_digest=base.digest,
        data_digest="",
        weight=torch.randn(layers, len(adapters), width, generator=generator) * 0.002,
        bias=initial_bias(len(adapters), 1).repeat(layers, 1),
    )
    return manifest.version


def streamed(cluster: LocalCluster, model: str, prompt: str, **fields: Any) -> list[dict[str, Any]]:
    answer = cluster.complete("admin", model, prompt, stream=True, **fields)
    assert answer.status_code == 200, answer.text
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events if not event.startswith(":")]


def test_a_static_router_is_added_answers_and_goes(cluster: LocalCluster, tmp_path: Path) -> None:
    save_static(tmp_path / "both", {"sql": 0.6, "json": -0.25})
    with removed_after(cluster, f"{ROUTERS}/both"):
        added = add(cluster, "both", tmp_path / "both")
        assert added.status_code == 201, added.text
        card = added.json()
        assert (card["kind"], card["state"], card["source"]) == ("static", "serving", "added")
        prompt = fresh("Count the orders of each customer")
        answer = cluster.complete("acme", "auto:both", prompt, explain=True)
        assert answer.status_code == 200, answer.text
        told = answer.headers["x-braid-adapters"]
        assert {term.split(";")[1] for term in told.split(", ")} == {"w=0.6", "w=-0.25"}
        explicit = cluster.complete(
            "acme",
            "SmolLM2-135M-Instruct",
            prompt,
            adapters=[{"name": "sql", "weight": 0.6}, {"name": "json", "weight": -0.25}],
        )
        (choice,) = answer.json()["choices"]
        assert choice["text"] == explicit.json()["choices"][0]["text"]
        assert choice["explain"]["router"] == "both"
        names = {card["id"] for card in cluster.get("/v1/models", "acme").json()["data"]}
        assert "auto:both" in names
        assert add(cluster, "both", tmp_path / "both").status_code == 409
    gone = cluster.complete("acme", "auto:both", prompt)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
    removed = cluster.delete(f"{ROUTERS}/both", "admin")
    assert (removed.status_code, removed.json()["error"]["code"]) == (404, "router_not_found")


def test_a_configured_router_is_replaced_and_comes_back(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    listed = cluster.get(ROUTERS, "admin").json()["data"]
    first = listed[0]
    assert (first["source"], first["kind"]) == ("config", "dlp")
    save_static(tmp_path / "mine", {"cron": 1.0})
    assert add(cluster, first["name"], tmp_path / "mine").status_code == 409
    with removed_after(cluster, f"{ROUTERS}/{first['name']}"):
        added = add(cluster, first["name"], tmp_path / "mine", replace="true")
        assert added.status_code == 201, added.text
        answer = cluster.complete("acme", "auto", fresh("Count the orders"))
        assert answer.headers["x-braid-adapters"].startswith("cron@")
    assert cluster.get(ROUTERS, "admin").json()["data"] == listed
    back = cluster.delete(f"{ROUTERS}/{first['name']}", "admin")
    assert "configuration" in back.json()["error"]["message"]


def test_a_gate_keeps_its_versions_and_says_when_they_are_gone(
    cluster: LocalCluster, base_model: ModelLocation, tmp_path: Path
) -> None:
    # A version of its own: it is deleted below, whatever else names it.
    old = add_adapter(cluster, "live-sql", retrained(DEMO_ADAPTERS / "sql", tmp_path / "old"))
    shell = str(read_manifest(DEMO_ADAPTERS / "shell")[0].digest)
    save_gate_of(tmp_path / "gate", base_model, {"shell": shell, "live-sql": old})
    with removed_after(cluster, f"{ROUTERS}/gate", f"{ADAPTERS}/live-sql"):
        added = add(cluster, "gate", tmp_path / "gate")
        assert added.status_code == 201, added.text
        assert added.json()["made_for"]["live-sql"] == old
        prompt = fresh("Count the orders of each customer")
        before = cluster.complete("admin", "auto:gate", prompt, explain=True)
        assert before.status_code == 200, before.text
        whole = before.json()["choices"][0]["explain"]
        assert whole["adapters"] == ["shell", "live-sql"]
        *chunks, last = streamed(cluster, "auto:gate", prompt, explain=True)
        assert all("explain" not in chunk["choices"][0] for chunk in chunks)
        assert alike(last["choices"][0]["explain"], whole)

        new = add_adapter(
            cluster, "live-sql", retrained(tmp_path / "old", tmp_path / "new"), replace="true"
        )
        assert new != old
        after = cluster.complete("admin", "auto:gate", fresh("Count the orders"))
        assert after.status_code == 200, after.text
        assert f"live-sql@{old}" in after.headers["x-braid-adapters"]

        assert cluster.delete(f"{ADAPTERS}/{old}?force=true", "admin").status_code in {200, 202}
        refused = cluster.complete("admin", "auto:gate", fresh("Count the orders"))
        problem = refused.json()["error"]
        assert (refused.status_code, problem["code"]) == (409, "router_outdated"), refused.text
        for word in ("'gate'", "'live-sql'", old[:12], new[:12]):
            assert word in problem["message"]
        again = add(cluster, "gate", tmp_path / "gate", replace="true")
        assert (again.status_code, again.json()["error"]["code"]) == (409, "router_outdated")
        save_gate_of(tmp_path / "anew", base_model, {"shell": shell, "live-sql": new})
        assert add(cluster, "gate", tmp_path / "anew", replace="true").status_code == 201
        served = cluster.complete("admin", "auto:gate", fresh("Count the orders"))
        assert f"live-sql@{new}" in served.headers["x-braid-adapters"]


def test_arrow_follows_its_adapters(cluster: LocalCluster, tmp_path: Path) -> None:
    add_adapter(cluster, "live-one", DEMO_ADAPTERS / "sql")
    body = {"name": "arrow", "kind": "arrow", "options": {"adapters": ["live-one", "shell"]}}
    with removed_after(cluster, f"{ROUTERS}/arrow", f"{ADAPTERS}/live-one"):
        added = cluster.post(ROUTERS, "admin", body)
        assert added.status_code == 201, added.text
        prompt = fresh("Count the orders")
        assert cluster.complete("admin", "auto:arrow", prompt).status_code == 200
        new = add_adapter(
            cluster, "live-one", retrained(DEMO_ADAPTERS / "sql", tmp_path / "new"), replace="true"
        )

        def version() -> str:
            (card,) = (
                card
                for card in cluster.get(ROUTERS, "admin").json()["data"]
                if card["name"] == "arrow"
            )
            return str(card["version"])

        assert version() != added.json()["version"]
        answer = cluster.complete("admin", "auto:arrow", prompt)
        assert answer.status_code == 200, answer.text
        assert f"live-one@{new}" in answer.headers["x-braid-adapters"]
        cluster.delete(f"{ADAPTERS}/live-one", "admin")
        gone = cluster.complete("admin", "auto:arrow", fresh("Count the orders"))
        assert (gone.status_code, gone.json()["error"]["code"]) == (409, "router_outdated")


def test_routers_of_modules_are_added_beside_their_adapter(
    cluster: LocalCluster, base_model: ModelLocation, tmp_path: Path
) -> None:
    digest = add_adapter(cluster, "forms", DEMO_ADAPTERS / "json")
    layers, width = base_dimensions(base_model.path)
    numerator, denominator = gelu_coefficients()
    generator = torch.Generator().manual_seed(1)
    shapes = tensor_shapes(layers, width, "mean")
    tensors = {n: torch.randn(s, generator=generator) * 0.01 for n, s in shapes.items()}
    tensors["numerator"] = numerator.repeat(layers, 1)
    tensors["denominator"] = denominator.repeat(layers, 1)
    save_milora(
        tmp_path / "forms",
        alias="forms",
        digest=digest,
        hyperparameters=MiloraHyperparameters(
            top_k=3, layers=layers, hidden_size=width, pooling="mean"
        ),
        base_digest=base_model.digest,
        data_digest="",
        tensors=tensors,
    )
    with removed_after(cluster, f"{ROUTERS}/forms", f"{ADAPTERS}/forms"):
        added = add(cluster, "forms", tmp_path / "forms")
        assert added.status_code == 201, added.text
        prompt = fresh("Make JSON of: name Ann, age 31")
        *_, last = streamed(cluster, "auto:forms", prompt, explain=True)
        masks = last["choices"][0]["explain"]["layers"]["weights"]
        assert [sum(layer) for layer in masks] == [3] * layers


@pytest.mark.parametrize(
    ("break_it", "status", "code"),
    [
        ("not an archive", 400, "router_invalid"),
        ("no tensors", 400, "router_invalid"),
        ("changed", 400, "router_invalid"),
        ("no such adapter", 400, "router_invalid"),
        ("another base", 400, "router_invalid"),
    ],
)
def test_what_cannot_be_served_leaves_nothing(
    cluster: LocalCluster,
    base_model: ModelLocation,
    tmp_path: Path,
    break_it: str,
    status: int,
    code: str,
) -> None:
    folder = tmp_path / "gate"
    digests = {a: str(read_manifest(DEMO_ADAPTERS / a)[0].digest) for a in ("shell", "sql")}
    if break_it == "no such adapter":
        digests["ghost"] = "f" * 64
    base = base_model
    if break_it == "another base":
        base = ModelLocation(base.path, base.model_id, "0" * 64)
    save_gate_of(folder, base, digests)
    if break_it == "changed":
        content = json.loads((folder / "router.json").read_text())
        content["candidates"].reverse()
        (folder / "router.json").write_text(json.dumps(content))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(folder / "router.json", arcname="router.json")
        if break_it != "no tensors":
            tar.add(folder / "router.safetensors", arcname="router.safetensors")
    archive = b"what is this" if break_it == "not an archive" else buffer.getvalue()
    answer = cluster.upload(ROUTERS, "admin", archive, name="broken")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert "/store" not in answer.text
    assert cluster.get(f"{ROUTERS}/broken", "admin").status_code == 404
    assert cluster.upload(ROUTERS, "acme", archive, name="broken").status_code == 403
