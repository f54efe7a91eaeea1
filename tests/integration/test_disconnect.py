"""A client that goes away costs nothing more."""

import time

import httpx2
import pytest

from tests.support.live_cluster import LiveCluster, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
LONG = {
    "model": BASE,
    "prompt": "Tell a very long story.",
    "max_tokens": 1800,
    "temperature": 0,
    "ignore_eos": True,
}


def running(cluster: LiveCluster) -> float:
    return cluster.metric("braid_replica_running_sequences")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_disconnect_frees_the_sequence(cluster: LiveCluster, stream: bool) -> None:
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
            assert running(cluster) == 1
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
