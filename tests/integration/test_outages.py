"""Redis and replicas may die while requests run."""

import time
from functools import partial

import pytest

from testing.background_threads import BackgroundThreads
from testing.local_cluster import REPLICA, VALKEY, LocalCluster
from testing.waiting import wait_for
from tests.support.live_stream import LiveStream, replica_processes

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]

PROMPT = "Once upon a time"
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
LONG = 300
"""Tokens of requests that are to be running while something dies."""


class Traffic(BackgroundThreads):
    """Routed and explicit requests without a break; keeps what came back."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.answers: list[tuple[int, str, str, str]] = []

        def run(worker: int) -> None:
            number = 0
            while not self._stop.is_set():
                number += 1
                model = ("auto", "sql", BASE)[number % 3]
                prompt = f"Show all customers of group {worker}-{number}"
                answer = cluster.complete("acme", model, prompt, max_tokens=8)
                headers = answer.headers
                self.answers.append(
                    (
                        answer.status_code,
                        headers.get("x-braid-decision-source", ""),
                        headers.get("x-braid-decision-store", ""),
                        answer.text,
                    )
                )

        super().__init__(*(partial(run, n) for n in range(4)))


def test_redis_dies_and_comes_back(cluster: LocalCluster) -> None:
    (server,) = cluster.processes(VALKEY)
    with Traffic(cluster) as traffic:
        wait_for("traffic flows", lambda: len(traffic.answers) >= 6, 60)
        server.suspend()  # alive but silent: the worst way to be down
        away_from = len(traffic.answers)
        wait_for("requests go on", lambda: len(traffic.answers) >= away_from + 8, 60)
        server.kill()
        killed_at = len(traffic.answers)
        wait_for("requests go on", lambda: len(traffic.answers) >= killed_at + 8, 60)
        wait_for(
            "storing resumes",
            lambda: traffic.answers[-1][2] == "written",
            60,
        )
    assert {answer[0] for answer in traffic.answers} == {200}, [
        answer for answer in traffic.answers if answer[0] != 200
    ][:3]
    assert {answer[1] for answer in traffic.answers} <= {"computed", "explicit", "stored"}
    assert "unavailable" in {answer[2] for answer in traffic.answers}


def test_a_killed_replica_is_replaced_and_its_requests_go_on(cluster: LocalCluster) -> None:
    body = {"model": BASE, "prompt": PROMPT, "max_tokens": LONG, "ignore_eos": True}
    expected = cluster.post("/v1/completions", "acme", {**body, "temperature": 0}).json()
    processes = replica_processes(cluster)
    before = cluster.metric("braid_failovers_total")
    streams = [LiveStream(cluster, "acme", body) for _ in range(6)]
    first = streams[0]
    first.wait_until_reached()  # hundreds of tokens are to come
    processes[first.replica].kill()
    at = len(first.text)
    for stream in streams:
        stream.join()
    assert {stream.text for stream in streams} == {expected["choices"][0]["text"]}
    assert at < len(first.text), "the answer had ended before its replica was killed"
    assert cluster.metric("braid_failovers_total") > before
    started = time.monotonic()
    wait_for("the replica is replaced", lambda: cluster.ready_replicas() == 2, 90, pause_s=0.5)
    print(f"replaced after {time.monotonic() - started:.1f} s")
    assert cluster.complete("acme", "sql", "Show all users").status_code == 200


def test_requests_of_a_replica_that_hangs_go_on_elsewhere(cluster: LocalCluster) -> None:
    """While it stands still, and no token comes twice once it goes on."""
    body = {"model": BASE, "prompt": PROMPT, "max_tokens": LONG, "ignore_eos": True}
    expected = cluster.post("/v1/completions", "acme", {**body, "temperature": 0}).json()
    processes = replica_processes(cluster)
    streams = [LiveStream(cluster, "acme", body) for _ in range(6)]
    first = streams[0]
    first.wait_until_reached()  # hundreds of tokens are to come
    hanging = processes[first.replica]
    hanging.suspend()
    try:
        at = len(first.text)
        for stream in streams:
            stream.join()
    finally:
        hanging.resume()
    assert {stream.text for stream in streams} == {expected["choices"][0]["text"]}
    assert at < len(first.text), "the answer had ended before its replica hung"
    wait_for("the replica is linked again", lambda: cluster.ready_replicas() == 2, 60)
    cluster.wait_until_at_rest(60)


def test_integrity_names_a_replica_that_hangs(cluster: LocalCluster) -> None:
    hanging, _ = cluster.actors(REPLICA)
    names = set(cluster.get("/admin/v1/integrity", "admin").json()["replicas"])
    hanging.suspend()
    try:
        answer = cluster.get("/admin/v1/integrity", "admin")
    finally:
        hanging.resume()
    assert answer.status_code == 200
    found = answer.json()
    (silent,) = found["silent"]
    assert set(found["replicas"]) == names - {silent}
    assert set(found["replicas"].values()) == {None}
    assert found["failures"] == ["TimeoutError()"]


def versions(cluster: LocalCluster) -> dict[str, str]:
    """Return every name that is registered, with what it points to."""
    cards = cluster.get("/admin/v1/adapters", "admin").json()["data"]
    return {card["name"]: card["version"] for card in cards}


def test_requests_and_streams_outlive_rays_control_service(cluster: LocalCluster) -> None:
    (control,) = cluster.processes("gcs_server")
    registered = versions(cluster)
    with Traffic(cluster) as traffic:
        wait_for("traffic flows", lambda: len(traffic.answers) >= 6, 60)
        body = {"model": BASE, "prompt": PROMPT, "max_tokens": LONG, "ignore_eos": True}
        stream = LiveStream(cluster, "acme", body)
        stream.wait_until_reached()
        control.kill()
        at, killed_at = len(stream.text), len(traffic.answers)
        wait_for("it is started again", lambda: cluster.processes("gcs_server"), 60)
        wait_for("requests go on", lambda: len(traffic.answers) >= killed_at + 8, 60)
    stream.join()
    assert {answer[0] for answer in traffic.answers} == {200}
    assert stream.tokens == LONG
    assert at < len(stream.text), "the stream had ended before the service was killed"
    assert versions(cluster) == registered
    victim = cluster.actors(REPLICA)[0]
    victim.kill()  # Ray must be able to start actors again
    wait_for("the replica is away", lambda: not victim.is_running(), 20)
    wait_for("the replica is replaced", lambda: len(cluster.actors(REPLICA)) == 2, 90, pause_s=0.5)


def test_a_cluster_whose_ray_node_died_is_started_again(cluster: LocalCluster) -> None:
    registered = versions(cluster)
    (manager,) = cluster.processes("raylet/raylet")
    manager.kill()
    wait_for("it is noticed", lambda: cluster.phase() == "restarting", 60, pause_s=0.02)
    wait_for("it is up again", lambda: cluster.ready_replicas() == 2, 180, pause_s=0.5)
    assert cluster.complete("acme", "sql", "Show all users").status_code == 200
    assert versions(cluster) == registered
