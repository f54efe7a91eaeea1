"""Checks what an operator sees and keeps: request lines, and tenants as the file has them now."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from cluster.config import AppConfig
from cluster.private_file import write_private
from cluster.tenancy.keys import hash_key
from deployments.local.local_state import StateDir
from deployments.local.log_file import log_files
from testing.local_cluster import LocalCluster
from testing.request_log.asking import Asker
from testing.request_log.log_tail import LogTail
from testing.request_log.logged_cluster import (
    ADAPTER,
    LONG_TOKENS,
    proof_config,
)
from testing.request_log.proof import Proof, ask_all, kill_front
from testing.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

REQUESTS = 220
WAIT_S = 60.0


def two_fronts(state: StateDir, port: int) -> AppConfig:
    config = proof_config(state, port, 2)
    return config.model_copy(update={"front": config.front.model_copy(update={"replicas": 2})})


@pytest.fixture(scope="module")
def cluster(base_model: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    live = LocalCluster.start(tmp_path_factory.mktemp("seen"), two_fronts)
    try:
        yield live
    finally:
        live.stop()
    assert live.leftover == []


@pytest.fixture
def tail(cluster: LocalCluster) -> Iterator[LogTail]:
    reader = LogTail(cluster.state.cluster_log)
    yield reader
    reader.close()


def edit_tenants(cluster: LocalCluster, edit: Any) -> None:
    """Replace the file as an editor does."""
    tree = yaml.safe_load(cluster.state.tenants.read_text())
    edit(tree["tenants"])
    write_private(cluster.state.tenants, yaml.safe_dump(tree))


def statuses(cluster: LocalCluster, key: str, tries: int = 12) -> set[int]:
    """Return the statuses over fresh connections, so that every front of the port answers some."""
    headers = {"authorization": f"Bearer {key}"}
    return {
        httpx2.get(f"{cluster.url}/v1/models", headers=headers, timeout=30).status_code
        for _ in range(tries)
    }


def errors_of_file(cluster: LocalCluster, tries: int = 12) -> set[str | None]:
    """Return the errors over fresh connections, so that every front of the port gives its own."""
    return {
        cluster.get("/admin/v1/status", "admin").json()["tenants_file"]["error"]
        for _ in range(tries)
    }


def test_every_request_has_its_line_in_time(cluster: LocalCluster, tail: LogTail) -> None:
    async def prove() -> Proof:
        async with httpx2.AsyncClient(base_url=cluster.url, timeout=60) as client:
            asker = Asker(client, cluster.keys, ADAPTER, long_tokens=LONG_TOKENS)
            return await ask_all(asker, tail, REQUESTS, in_time_s=WAIT_S)

    proof = asyncio.run(prove())
    proof.search(log_files(cluster.state.cluster_log), list(cluster.keys.values()))
    assert proof.problems == []
    assert set(proof.outcomes) >= {
        "completed",
        "rejected_auth",
        "rejected_invalid",
        "rejected_quota",
        "rejected_capacity",
        "evicted_deadline",
        "cancelled",
    }


def test_a_line_says_how_a_request_was_answered(cluster: LocalCluster, tail: LogTail) -> None:
    body = {"model": ADAPTER, "prompt": "List all ships.", "max_tokens": 4, "n": 2, "seed": 1}
    answer = cluster.post("/v1/completions", "acme", body)
    request = answer.headers["x-request-id"]
    assert tail.wait_for(request, WAIT_S)
    found = tail.line(request)
    assert found is not None
    line = found[1]
    usage = answer.json()["usage"]
    assert line["model"] == ADAPTER
    assert line["decision"] == answer.headers["x-braid-decision"]
    assert line["source"] == answer.headers["x-braid-decision-source"]
    assert line["replica"] == answer.headers["x-braid-replica"]
    assert [term["adapter"] for term in line["mixture"]] == [ADAPTER]
    assert (line["choices"], line["prompt_tokens"], line["completion_tokens"]) == (
        2,
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert 0 <= line["queue_ms"] <= line["ttft_ms"] <= line["total_ms"]


def test_metrics_need_a_key_for_them(cluster: LocalCluster) -> None:
    found = [cluster.get("/metrics", who).status_code for who in (None, "acme", "scraper", "admin")]
    assert found == [401, 403, 200, 200]
    assert cluster.get("/ready").status_code == 200
    assert cluster.get("/admin/v1/status", "scraper").status_code == 403


def test_a_key_that_is_taken_out_of_the_file_is_refused_by_every_front(
    cluster: LocalCluster,
) -> None:
    def change(tenants: list[dict[str, Any]]) -> None:
        for tenant in tenants:
            if tenant["id"] == "globex":
                tenant["keys"] = [hash_key("another")]
        tenants.append({"id": "newcomer", "keys": [hash_key("new")], "adapters": []})

    key = cluster.keys["globex"]
    assert statuses(cluster, key) == {200}
    edit_tenants(cluster, change)
    # Too many unknown keys from one address are 429.
    wait_for("refused", lambda: statuses(cluster, key) <= {401, 429}, WAIT_S)
    assert statuses(cluster, "another") == {200}
    assert statuses(cluster, "new") == {200}


def test_a_bad_edit_keeps_the_last_good_tenants_and_says_so(cluster: LocalCluster) -> None:
    good = cluster.state.tenants.read_text()
    write_private(cluster.state.tenants, "tenants: [{id: BAD}]")
    wait_for("the error", lambda: None not in errors_of_file(cluster), WAIT_S)
    (error,) = errors_of_file(cluster)
    assert "tenants[0].id" in str(error)
    assert statuses(cluster, cluster.keys["acme"]) == {200}
    assert cluster.metric("braid_tenants_file_refused") == 1
    write_private(cluster.state.tenants, good)
    wait_for("good again", lambda: errors_of_file(cluster) == {None}, WAIT_S)


def test_the_last_line_before_a_front_is_killed(cluster: LocalCluster, tail: LogTail) -> None:
    async def prove() -> list[str]:
        limits = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncClient(base_url=cluster.url, timeout=60, limits=limits) as client:
            asker = Asker(client, cluster.keys, ADAPTER, long_tokens=LONG_TOKENS)

            def kill() -> None:
                for front in cluster.listening("Front", cluster.port):
                    front.kill()

            return await kill_front(asker, tail, kill, in_time_s=WAIT_S)

    assert asyncio.run(prove()) == []


def test_the_log_is_the_users_alone(cluster: LocalCluster) -> None:
    log: Path = cluster.state.cluster_log
    assert log.stat().st_mode & 0o077 == 0
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert {"front", "replica", "controller"} <= {line["part"] for line in lines}
