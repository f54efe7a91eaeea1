"""A cluster whose replicas run vLLM; skipped where its environment is not installed."""

import json
import re
from collections.abc import Iterator

import psutil
import pytest

from cluster.base_model.source import ModelLocation
from cluster.config import AppConfig, EngineConfig
from cluster.engine.hosted.environment import find_python
from cluster.engine.hosted.host_process import HOST_PROGRAM
from cluster.errors import ConfigError
from deployments.local.local_state import StateDir
from testing.local_cluster import LocalCluster
from testing.waiting import wait_for
from tests.integration.conftest import quickstart
from tests.support.live_stream import LiveStream, replica_processes

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
LONG = {"prompt": "Once upon a time", "max_tokens": 300, "ignore_eos": True, "temperature": 0}
STREAMS = 16


def hosted(state: StateDir, port: int) -> AppConfig:
    """Return the quickstart with vLLM behind its replicas."""
    return quickstart(state, port, engine={"kind": "vllm", "threads": 1})


@pytest.fixture(scope="module")
def vllm(
    base_model: ModelLocation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalCluster]:
    try:
        find_python(EngineConfig(kind="vllm"))
    except ConfigError as error:
        pytest.skip(error.message)
    cluster = LocalCluster.start(tmp_path_factory.mktemp("state"), hosted)
    try:
        yield cluster
    finally:
        cluster.stop()
    assert cluster.leftover == [], "processes were left behind"


def host_of(replica: psutil.Process) -> psutil.Process:
    (host,) = [p for p in replica.children() if str(HOST_PROGRAM) in p.cmdline()]
    return host


def test_a_prompt_is_routed_and_answered(vllm: LocalCluster) -> None:
    answer = vllm.complete("acme", "auto", "Show all customers of Berlin")
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] > 0
    assert answer.headers["x-braid-decision-source"] in ("computed", "stored")


def test_an_answer_keeps_to_its_grammar(vllm: LocalCluster) -> None:
    schema = {
        "type": "object",
        "properties": {"day": {"enum": ["Monday", "Friday"]}},
        "required": ["day"],
        "additionalProperties": False,
    }
    body = {"model": "json", "prompt": "The day is Friday.", "max_tokens": 40, "temperature": 0}
    for given in ({"guided_regex": "[a-c]{3}"}, {"guided_json": schema}):
        answer = vllm.post("/v1/completions", "acme", body | given)
        assert answer.status_code == 200, answer.text
        text = answer.json()["choices"][0]["text"]
        if "guided_regex" in given:
            assert re.fullmatch("[a-c]{3}", text)
        else:
            assert json.loads(text)["day"] in ("Monday", "Friday")


def test_requests_go_on_elsewhere_when_a_host_is_killed(vllm: LocalCluster) -> None:
    body = {"model": BASE, **LONG}
    expected = vllm.post("/v1/completions", "acme", body).json()["choices"][0]["text"]
    processes = replica_processes(vllm)
    before = vllm.metric("braid_failovers_total")
    streams = [LiveStream(vllm, "acme", body) for _ in range(STREAMS)]
    first = streams[0]
    first.wait_until_reached()  # hundreds of tokens are to come
    host_of(processes[first.replica]).kill()
    at = len(first.text)
    for stream in streams:
        stream.join()
    assert {stream.text for stream in streams} == {expected}
    assert at < len(first.text), "the answer had ended before its host was killed"
    assert vllm.metric("braid_failovers_total") > before
    wait_for("the replica is replaced", lambda: vllm.ready_replicas() == 2, 180, pause_s=0.5)


def test_a_host_ends_with_its_replica(vllm: LocalCluster) -> None:
    replica = next(iter(replica_processes(vllm).values()))
    host = host_of(replica)
    replica.kill()
    host.wait(timeout=10)
    wait_for("the replica is replaced", lambda: vllm.ready_replicas() == 2, 180, pause_s=0.5)
