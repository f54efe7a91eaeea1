"""A policy that is applied to a live cluster: followed by everybody, and given back by itself."""

from typing import Any

import pytest

from testing.local_cluster import CONTROLLER, LocalCluster
from testing.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.model, pytest.mark.redis]
POLICY = "/admin/v1/policy"


def shown(cluster: LocalCluster) -> dict[str, Any]:
    body: dict[str, Any] = cluster.get(POLICY, "admin").json()
    return body


def put(cluster: LocalCluster, text: str, **fields: Any) -> tuple[int, dict[str, Any]]:
    answer = cluster.put(POLICY, "admin", {"text": text, "message": "a test", **fields})
    return answer.status_code, answer.json()


def is_followed(cluster: LocalCluster, version: int) -> bool:
    following = shown(cluster)["following"]
    return {following["controller"], *following["fronts"].values()} == {version}


def test_an_override_is_followed_by_all_and_ends_by_itself(cluster: LocalCluster) -> None:
    path = cluster.state.root / "policy.yaml"
    before = shown(cluster)
    base = before["version"]
    assert (before["managed_by"], before["text"]) == (str(path), path.read_text())
    assert base >= 1
    assert is_followed(cluster, base)
    text = f"{path.read_text()}picking: {{max_queued: 77}}\n"
    status, refused = put(cluster, text)
    assert (status, refused["error"]["code"]) == (409, "policy_conflict")
    status, applied = put(cluster, text, override_s=8, expected=base)
    assert (status, applied["changed"]) == (200, True)
    wait_for("all follow", lambda: is_followed(cluster, applied["version"]), 8)
    during = shown(cluster)
    assert during["effective"]["picking"]["max_queued"] == 77
    assert during["override"]["falls_back_to"] == base
    wait_for("all follow the file again", lambda: is_followed(cluster, base), 20)
    assert shown(cluster)["override"] is None


def test_the_policy_outlives_the_controller(cluster: LocalCluster) -> None:
    base = shown(cluster)["version"]
    (process,) = cluster.actors(CONTROLLER)
    process.kill()
    wait_for("it is followed again", lambda: is_followed(cluster, base), 90, pause_s=0.5)
    assert len(shown(cluster)["text"]) > 0
