"""A client that goes away costs nothing more."""

import json
import socket
import time

import httpx2
import pytest

from testing.local_cluster import LocalCluster
from testing.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
LONG = {
    "model": BASE,
    "prompt": "Tell a very long story.",
    "max_tokens": 1800,
    "temperature": 0,
    "ignore_eos": True,
}


def running(cluster: LocalCluster) -> float:
    return cluster.metric("braid_replica_running_sequences")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_disconnect_frees_the_sequence(cluster: LocalCluster, stream: bool) -> None:
    before = cluster.metric("braid_requests_total", outcome="cancelled")
    with httpx2.Client(timeout=60) as client:
        request = client.build_request(
            "POST",
            f"{cluster.url}/v1/completions",
            headers=cluster.headers("acme"),
            json={**LONG, "stream": stream},
        )
        if stream:
            answer = client.send(request, stream=True)
            lines = answer.iter_lines()
            assert next(lines).startswith("data:")
            wait_for("it runs", lambda: running(cluster) == 1, 10)
            answer.close()
        else:
            with pytest.raises(httpx2.ReadTimeout):
                client.post(
                    str(request.url), headers=request.headers, content=request.content, timeout=1.5
                )
    gone = time.monotonic()
    wait_for("the sequence is freed", lambda: running(cluster) == 0, 10, pause_s=0.05)
    print(f"freed {time.monotonic() - gone:.2f} s after the client had gone")
    wait_for(
        "the outcome is counted",
        lambda: cluster.metric("braid_requests_total", outcome="cancelled") == before + 1,
        5,
    )


def test_a_client_that_sends_and_leaves_at_once_is_counted(cluster: LocalCluster) -> None:
    def counted() -> float:
        return cluster.metric("braid_requests_total")

    before, cancelled = counted(), cluster.metric("braid_requests_total", outcome="cancelled")
    body = json.dumps({**LONG, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    key = cluster.headers("acme")["authorization"]
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", cluster.port)) as connection:
            connection.sendall(f"{head}authorization: {key}\r\n\r\n".encode() + body)
    wait_for("all are counted", lambda: counted() == before + 20, 20)
    assert cluster.metric("braid_requests_total", outcome="cancelled") == cancelled + 20
