"""The controller and replicas may die or hang under load; what only one of them had comes back."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from cluster.base_model.source import ModelLocation
from cluster.config import AppConfig
from deployments.local.local_state import StateDir
from testing.background_threads import BackgroundThreads
from testing.local_cluster import CONTROLLER, LocalCluster
from testing.waiting import wait_for
from tests.integration.conftest import REPLICAS, quickstart

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]


@pytest.fixture(scope="module")
def pinned(
    base_model: ModelLocation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalCluster]:
    """A cluster of its own whose policy keeps one copy of an adapter."""

    def make_config(state: StateDir, port: int) -> AppConfig:
        config = quickstart(state, port)
        path = config.controller.policy_file
        assert path is not None
        path.write_text(path.read_text() + "adapters: [{adapter: sql, copies: 1}]\n")
        return config

    cluster = LocalCluster.start(tmp_path_factory.mktemp("state"), make_config)
    try:
        yield cluster
    finally:
        cluster.stop()
    assert cluster.leftover == []


class Requests(BackgroundThreads):
    """Requests one after the other, for the base and the pinned adapter, until told to stop."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.answers: list[tuple[int, str]] = []

        def run(worker: int) -> None:
            number = 0
            while not self._stop.is_set():
                number += 1
                model = ("sql", "cron")[(number + worker) % 2]
                answer = cluster.complete("acme", model, f"Show {worker}-{number}", max_tokens=4)
                self.answers.append((answer.status_code, answer.text))

        super().__init__(*(partial(run, n) for n in range(2)))

    @property
    def failures(self) -> list[tuple[int, str]]:
        return [answer for answer in self.answers if answer[0] != 200][:3]


def placement(cluster: LocalCluster) -> dict[str, Any]:
    body: dict[str, Any] = cluster.get("/admin/v1/placement", "admin").json()
    return body


def homes(cluster: LocalCluster) -> list[str]:
    """Return the replicas that are to keep the pinned adapter, and have it."""
    replicas = placement(cluster).get("replicas", {})
    return [
        name
        for name, replica in replicas.items()
        if not replica["suspect"]
        and any(item["adapter"] == "sql" for item in replica["desired"])
        and any(a["adapter"] == "sql" and a["state"] == "ready" for a in replica["resident"])
    ]


def home(cluster: LocalCluster) -> str:
    return str(wait_for("the pin is placed", lambda: homes(cluster), 30)[0])


def process_of(cluster: LocalCluster, replica_id: str) -> Any:
    residency = cluster.get("/admin/v1/residency", "admin").json()["replicas"]
    (found,) = [one for one in residency if one["replica_id"] == replica_id]
    return cluster.process_of(found)


def test_a_controller_that_is_killed_twice_comes_back_with_a_higher_epoch(
    pinned: LocalCluster,
) -> None:
    kept = home(pinned)
    with Requests(pinned) as requests:
        for _ in range(2):
            epoch = placement(pinned)["epoch"]
            (process,) = pinned.actors(CONTROLLER)
            process.kill()
            after = wait_for(
                "a new controller leads",
                lambda before=epoch: (
                    found if (found := placement(pinned)).get("epoch", 0) > before else None
                ),
                60,
                pause_s=0.3,
            )
            assert after["standing"] == "leads"
            wait_for("it has heard of all", lambda: len(placement(pinned)["replicas"]) == 2, 20)
            assert placement(pinned)["replica_count"] == REPLICAS
            assert homes(pinned) == [kept], "nothing moved"
    assert requests.failures == []
    assert "epoch" in {change["kind"] for change in placement(pinned)["history"]}


def test_a_replica_that_hangs_or_dies_has_its_sole_copy_told_elsewhere(
    pinned: LocalCluster,
) -> None:
    first = home(pinned)
    hanging = process_of(pinned, first)
    hanging.suspend()
    began = time.monotonic()
    try:
        wait_for(
            "another one is told",
            lambda: any(
                name != first and any(item["adapter"] == "sql" for item in one["desired"])
                for name, one in placement(pinned)["replicas"].items()
            ),
            20,
            pause_s=0.1,
        )
        print(f"hung: told elsewhere after {time.monotonic() - began:.1f} s")
    finally:
        hanging.resume()
    wait_for(
        "it is believed again",
        lambda: not any(one["suspect"] for one in placement(pinned)["replicas"].values()),
        30,
    )
    victim = home(pinned)
    with Requests(pinned) as requests:
        process_of(pinned, victim).kill()
        began = time.monotonic()
        wait_for(
            "another one is told",
            lambda: any(
                name != victim and any(item["adapter"] == "sql" for item in one["desired"])
                for name, one in placement(pinned)["replicas"].items()
            ),
            20,
            pause_s=0.1,
        )
        print(f"killed: told elsewhere after {time.monotonic() - began:.1f} s")
        wait_for("it serves there", lambda: set(homes(pinned)) - {victim}, 20)
    assert requests.failures == []
    wait_for("the replica is replaced", lambda: pinned.ready_replicas() == REPLICAS, 90)
