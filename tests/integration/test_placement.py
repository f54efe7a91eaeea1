"""Adapters follow the load, with reasons an operator can read."""

import time
from typing import Any

import pytest

from testing.background_threads import BackgroundThreads
from testing.local_cluster import CONTROLLER, LocalCluster
from testing.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]


def placement(cluster: LocalCluster) -> dict[str, Any]:
    body: dict[str, Any] = cluster.get("/admin/v1/placement", "admin").json()
    return body


def copies(cluster: LocalCluster, alias: str) -> int:
    """Count the replicas whose placement has the adapter and that truly hold it."""
    return sum(
        any(item["adapter"] == alias for item in replica["desired"])
        and any(
            item["adapter"] == alias and item["state"] == "ready" for item in replica["resident"]
        )
        for replica in placement(cluster)["replicas"].values()
    )


class Load(BackgroundThreads):
    """Requests of one tenant for one adapter, one after the other, until told to stop."""

    def __init__(self, cluster: LocalCluster, tenant: str, adapter: str) -> None:
        self.failures: list[str] = []

        def run() -> None:
            while not self._stop.is_set():
                answer = cluster.complete(tenant, adapter, "every day at noon", max_tokens=4)
                if answer.status_code != 200:
                    self.failures.append(answer.text)

        super().__init__(*[run] * 4)


def placed(cluster: LocalCluster, *aliases: str) -> dict[str, Any] | None:
    """Return what the plan says of a set, if it has a place for it."""
    found = [one for one in placement(cluster)["sets"] if one["adapters"] == list(aliases)]
    return found[0] if found and found[0]["replicas"] else None


def test_what_is_asked_for_is_kept_and_promised_copies_are_fetched(cluster: LocalCluster) -> None:
    path = cluster.state.root / "policy.yaml"
    policy = path.read_text()
    with Load(cluster, "acme", "cron") as load:
        kept = wait_for("cron is kept", lambda: placed(cluster, "cron"), 60)
        assert "acme 100%" in kept["reason"]
        assert copies(cluster, "cron") >= 1
        try:
            path.write_text(f"{policy}placement: {{min_copies: 2}}\n")
            wait_for("two copies of cron", lambda: copies(cluster, "cron") == 2, 60)
        finally:
            path.write_text(policy)
    assert load.failures == []


def test_administration_needs_the_right(cluster: LocalCluster) -> None:
    for path in ("/admin/v1/placement", "/admin/v1/residency", "/admin/v1/status"):
        assert cluster.get(path).status_code == 401
        assert cluster.get(path, "acme").status_code == 403
        assert cluster.get(path, "admin").status_code == 200


def test_a_broken_policy_edit_is_named_and_changes_nothing(cluster: LocalCluster) -> None:
    path = cluster.state.root / "policy.yaml"
    good = path.read_text()
    in_force = placement(cluster)["policy"]
    path.write_text(good.replace("min:", "mni:"))
    try:
        error = wait_for("the error shows", lambda: placement(cluster)["policy_error"], 10)
        assert str(path) in error
        assert "replicas.mni" in error
        assert placement(cluster)["policy"] == in_force
    finally:
        path.write_text(good)
    wait_for("the error is gone", lambda: placement(cluster)["policy_error"] is None, 10)


def test_the_controller_remembers_across_a_restart(cluster: LocalCluster) -> None:
    assert cluster.complete("acme", "sql", "Show all users", max_tokens=2).status_code == 200
    time.sleep(2)
    before = placement(cluster)
    (process,) = cluster.actors(CONTROLLER)
    process.kill()

    def restarted() -> dict[str, Any] | None:
        now = placement(cluster)
        return now if "error" not in now and now["ticks"] < before["ticks"] else None

    after = wait_for("the controller is back", restarted, 90, pause_s=0.5)
    assert after["version"] >= before["version"]
    assert after["history"][: len(before["history"])] == before["history"]
