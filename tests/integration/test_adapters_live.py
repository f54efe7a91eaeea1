"""Adapters come and go while requests run; each says by its own token which weights answered."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.adapters.signatures import Signature, SignatureMaker, tar_of
from cluster.base_model.source import ModelLocation
from deployments.front.text.chat_template import TemplateOptions
from deployments.front.text.text_stream import TextCodec
from tests.support.live_cluster import VALKEY, LiveCluster, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

ADAPTERS = "/admin/v1/adapters"
TOKENS = 8
OUTLASTING = 240
"""Tokens of a stream that is still running when a few requests and one change are done."""


@pytest.fixture(scope="module")
def maker(base_model: ModelLocation) -> SignatureMaker:
    return SignatureMaker(base_model.path, 4)


@pytest.fixture(autouse=True)
def nothing_left(cluster: LiveCluster) -> Iterator[None]:
    """Whatever a test added is removed by it, with its memory."""
    before = {card["name"]: card["version"] for card in listed(cluster)}
    yield
    left = [card for card in listed(cluster) if card["name"] not in before]
    for card in left:  # so that one failed test is one failed test
        cluster.delete(f"{ADAPTERS}/{card['name']}?force=true&tenant={card['owner']}", "admin")
    assert left == []
    assert {card["name"]: card["version"] for card in listed(cluster)} == before
    assert cluster.get(ADAPTERS, "admin").json()["other_versions"] == []


def listed(cluster: LiveCluster) -> list[dict]:
    return cluster.get(ADAPTERS, "admin").json()["data"]


def add(cluster: LiveCluster, name: str, archive: bytes, **query: str) -> str:
    """Upload for acme; the version."""
    answer = cluster.upload(ADAPTERS, "admin", archive, **{"name": name, "grants": "acme", **query})
    assert answer.status_code == 201, answer.text
    return answer.json()["version"]


def remove(cluster: LiveCluster, name: str) -> None:
    answer = cluster.delete(f"{ADAPTERS}/{name}", "admin")
    assert answer.status_code == 200, answer.text


def says(cluster: LiveCluster, model: str, signature: Signature, version: str) -> None:
    """Ask once; the answer is the signature's alone."""
    answer = cluster.complete("acme", model, "Once upon a time", max_tokens=TOKENS, ignore_eos=True)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"] == signature.text * TOKENS
    assert answer.headers["x-braid-adapters"] == f"{model}@{version};w=1"


class LongStream(threading.Thread):
    """A streamed answer of many tokens; ``begun`` when the first one is here."""

    def __init__(self, cluster: LiveCluster, model: str, tokens: int) -> None:
        super().__init__()
        self._cluster = cluster
        self._body = {
            "model": model,
            "prompt": "Once upon a time",
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        self.begun = threading.Event()
        self.text = ""
        self.adapters = self.replica = ""
        self.start()
        assert self.begun.wait(60)

    def run(self) -> None:
        url, headers = self._cluster.url + "/v1/completions", self._cluster.headers("acme")
        with httpx2.stream("POST", url, headers=headers, json=self._body, timeout=120) as answer:
            self.adapters = answer.headers.get("x-braid-adapters", "")
            self.replica = answer.headers.get("x-braid-replica", "")
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    self.text += json.loads(line[6:])["choices"][0]["text"]
                    self.begun.set()
        self.begun.set()


def test_added_while_others_run_and_used_at_once_on_both_replicas(
    cluster: LiveCluster, maker: SignatureMaker, archives: list[bytes]
) -> None:
    def ask_sql() -> object:
        return cluster.complete("acme", "sql", "Show all users", max_tokens=60).json()["choices"]

    expected = ask_sql()
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(ask_sql) for _ in range(4)]
        version = add(cluster, "signal", archives[0])
        card = cluster.get(f"{ADAPTERS}/signal", "admin").json()
        assert [held["tier"] for held in card["residency"]] == ["device", "device"]
        says(cluster, "signal", maker.signatures[0], version)
        assert [future.result() for future in running] == [expected] * 4
    # Streams that outlast each other's start spread over the replicas, be it not the first two.
    streams: list[LongStream] = []
    while len({stream.replica for stream in streams}) < 2:
        assert len(streams) < 8, "all went to one replica"
        streams.append(LongStream(cluster, "signal", OUTLASTING))
    for stream in streams:
        stream.join()
        assert stream.text == maker.signatures[0].text * OUTLASTING
    models = [card["id"] for card in cluster.get("/v1/models", "acme").json()["data"]]
    assert "signal" in models
    assert cluster.complete("globex", "signal", "x").status_code == 404, "granted to acme alone"
    remove(cluster, "signal")


def test_a_folder_of_the_server_and_a_tenants_own_name(
    cluster: LiveCluster, maker: SignatureMaker
) -> None:
    maker.write(cluster.state.root / "sources" / "team" / "one", maker.signatures[1])
    body = {"name": "mine", "tenant": "acme", "source": {"folder": "team/one"}}
    answer = cluster.post(ADAPTERS, "admin", body)
    assert answer.status_code == 201, answer.text
    says(cluster, "mine", maker.signatures[1], answer.json()["version"])
    assert cluster.complete("globex", "mine", "x").status_code == 404
    remove(cluster, "mine?tenant=acme")
    load = {"lora_name": "vllms", "lora_path": "team/one"}
    path = cluster.state.root / "sources" / "team" / "one"
    answer = cluster.post("/v1/load_lora_adapter", "admin", {**load, "lora_path": str(path)})
    assert answer.status_code == 200, answer.text
    assert cluster.post("/v1/load_lora_adapter", "admin", load).status_code == 409
    assert cluster.post("/v1/load_lora_adapter", "acme", load).status_code == 403
    answer = cluster.post("/v1/unload_lora_adapter", "admin", {"lora_name": "vllms"})
    assert answer.status_code == 200, answer.text


def test_an_own_template_and_a_base_that_is_vouched_for(
    cluster: LiveCluster, maker: SignatureMaker, base_model: ModelLocation
) -> None:
    template = "{% for m in messages %}### {{ m['content'] }}{% endfor %}"
    folder = cluster.state.root / "sources" / "own"
    maker.write(folder, maker.signatures[0])
    (folder / "chat_template.jinja").write_text(template)
    (folder / "manifest.json").write_text('{"base_digest": "of a copy"}')
    body = {"name": "own", "grants": ["acme"], "source": {"folder": "own"}}
    answer = cluster.post(ADAPTERS, "admin", body)
    assert answer.json()["error"]["code"] == "adapter_wrong_base", answer.text
    answer = cluster.post(ADAPTERS, "admin", {**body, "base_check": "shapes"})
    assert answer.status_code == 201, answer.text
    assert ["chat template: its own" in note for note in answer.json()["notes"]] == [True]

    def prompt_tokens(**fields: object) -> int:
        chat = {"messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 1}
        answer = cluster.post("/v1/chat/completions", "acme", {**chat, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()["usage"]["prompt_tokens"]

    codec = TextCodec(base_model.path)
    short = len(
        codec.encode_chat(
            [{"role": "user", "content": "Hello there"}], TemplateOptions(source=template)
        )
    )
    base = str(cluster.get("/v1/models", "acme").json()["data"][0]["id"])
    assert prompt_tokens(model="own") == short < prompt_tokens(model=base)
    mixture = [{"name": "own", "weight": 1.0}]
    assert prompt_tokens(model=base, adapters=mixture) == prompt_tokens(model=base)
    remove(cluster, "own")


def test_replaced_under_a_running_stream_and_rolled_back(
    cluster: LiveCluster, maker: SignatureMaker, archives: list[bytes]
) -> None:
    old, new, _, _ = maker.signatures
    first = add(cluster, "swap", archives[0])
    stream = LongStream(cluster, "swap", OUTLASTING)
    second = add(cluster, "swap", archives[1], expected=first)
    says(cluster, "swap", new, second)
    assert stream.is_alive(), "the stream was meant to outlast the switch"
    stream.join()
    assert stream.text == old.text * OUTLASTING
    assert stream.adapters == f"swap@{first};w=1"
    answer = cluster.post(f"{ADAPTERS}/swap/rollback", "admin", {"expected": second})
    assert answer.status_code == 200, answer.text
    assert [step["version"] for step in answer.json()["history"]] == [first, second, first]
    says(cluster, "swap", old, first)
    stale = cluster.post(f"{ADAPTERS}/swap/rollback", "admin", {"expected": second})
    assert (stale.status_code, stale.json()["error"]["code"]) == (409, "adapter_conflict")
    remove(cluster, "swap")


def test_of_two_adds_of_one_name_one_wins(cluster: LiveCluster, archives: list[bytes]) -> None:
    with ThreadPoolExecutor(2) as pool:
        answers = list(
            pool.map(lambda a: cluster.upload(ADAPTERS, "admin", a, name="race"), archives[:2])
        )
    assert sorted(answer.status_code for answer in answers) == [201, 409]
    (refused,) = [answer for answer in answers if answer.status_code == 409]
    assert refused.json()["error"]["code"] == "adapter_conflict"
    remove(cluster, "race")
    wait_for("loser is gone", lambda: not other_versions(cluster), 20)


def other_versions(cluster: LiveCluster) -> list[dict]:
    return cluster.get(ADAPTERS, "admin").json()["other_versions"]


def test_removed_under_a_running_stream(
    cluster: LiveCluster, maker: SignatureMaker, archives: list[bytes]
) -> None:
    def bytes_used() -> list[int]:
        replicas = cluster.get("/admin/v1/residency", "admin").json()["replicas"]
        return sorted(replica["adapter_bytes_used"] for replica in replicas)

    def held() -> list[dict]:
        replicas = cluster.get("/admin/v1/residency", "admin").json()["replicas"]
        return [r for replica in replicas for r in replica["resident"] if r["digest"] == version]

    before = bytes_used()
    version = add(cluster, "gone", archives[2])
    stored = list((cluster.state.root / "adapters").glob(f"*/{version}"))
    assert len(stored) == 1
    stream = LongStream(cluster, "gone", OUTLASTING)
    answer = cluster.delete(f"{ADAPTERS}/gone?wait_s=0", "admin")
    assert answer.status_code == 202, answer.text
    assert [item["version"] for item in answer.json()["waiting"]] == [version]
    assert cluster.complete("acme", "gone", "x").status_code == 404
    assert "gone" not in [c["id"] for c in cluster.get("/v1/models", "acme").json()["data"]]
    assert stream.is_alive(), "the stream was meant to outlast the removal"
    stream.join()
    assert stream.text == maker.signatures[2].text * OUTLASTING
    wait_for("forgotten", lambda: not other_versions(cluster), 20)
    wait_for("unloaded", lambda: not held(), 20)
    wait_for("memory back", lambda: bytes_used() <= before, 20)
    assert not stored[0].exists()


def test_pinned_on_every_replica(cluster: LiveCluster, archives: list[bytes]) -> None:
    version = add(cluster, "kept", archives[3])
    assert cluster.post(f"{ADAPTERS}/kept/pin", "admin", {}).json()["pinned"]

    def pinned() -> bool:
        replicas = cluster.get("/admin/v1/residency", "admin").json()["replicas"]
        return all(
            any(r["digest"] == version and r["pinned"] for r in replica["resident"])
            for replica in replicas
        )

    wait_for("pinned", pinned, 20)
    refused = cluster.delete(f"{ADAPTERS}/kept", "admin")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "adapter_in_use")
    answer = cluster.post(f"{ADAPTERS}/kept/verify", "admin", {})
    assert answer.json() == {"object": "adapter.verified", "version": version, "intact": True}
    assert cluster.delete(f"{ADAPTERS}/kept?force=true", "admin").status_code == 200


def test_bad_ones_are_refused_and_leave_nothing(
    cluster: LiveCluster, maker: SignatureMaker, tmp_path: Path
) -> None:
    good = maker.write(tmp_path / "good", maker.signatures[0])
    weights = good / "adapter_model.safetensors"
    tensors = load_file(weights)

    def variant(name: str, change) -> bytes:
        folder = maker.write(tmp_path / name, maker.signatures[0])
        save_file(change(dict(tensors)), folder / weights.name)
        return tar_of(folder)

    def broken(given: dict) -> dict:
        return {name: torch.full_like(tensor, torch.nan) for name, tensor in given.items()}

    def narrow(given: dict) -> dict:
        return {n: t[:, :7].contiguous() if "lora_A" in n else t for n, t in given.items()}

    cut = tar_of(good)[:-40_000]
    cases = {
        "nan": (variant("nan", broken), 400, "adapter_not_finite"),
        "narrow": (variant("narrow", narrow), 400, "adapter_wrong_base"),
        "cut": (cut, 400, "adapter_malformed"),
        "text": (b"not an archive at all", 400, "adapter_malformed"),
        "auto": (tar_of(good), 400, "adapter_invalid"),
        "sql": (tar_of(good), 409, "adapter_conflict"),
    }
    for name, (archive, status, code) in cases.items():
        answer = cluster.upload(ADAPTERS, "admin", archive, name=name)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    for folder, code in (("../keys", "adapter_unsafe_path"), ("none", "adapter_source_not_found")):
        answer = cluster.post(ADAPTERS, "admin", {"name": "x", "source": {"folder": folder}})
        assert answer.json()["error"]["code"] == code, answer.text
    url = {"name": "x", "source": {"url": "https://example.com/a.tar"}}
    assert cluster.post(ADAPTERS, "admin", url).json()["error"]["code"] == "adapter_source_refused"
    assert cluster.upload(ADAPTERS, "acme", tar_of(good), name="x").status_code == 403
    assert other_versions(cluster) == []
    assert list((cluster.state.root / "adapters").glob("*/*")) == []


def test_the_registry_outlives_its_server(
    cluster: LiveCluster, maker: SignatureMaker, archives: list[bytes]
) -> None:
    version = add(cluster, "lasting", archives[0])
    (server,) = cluster.processes(VALKEY)
    server.kill()
    says(cluster, "lasting", maker.signatures[0], version)
    wait_for("server back", lambda: cluster.processes(VALKEY), 30)
    wait_for("registry back", lambda: any(c["name"] == "lasting" for c in listed(cluster)), 30)
    says(cluster, "lasting", maker.signatures[0], version)
    remove(cluster, "lasting")
