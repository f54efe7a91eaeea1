"""The policy that a front begins with."""

from pathlib import Path

import pytest

from cluster.config import AppConfig
from cluster.placement.policy import ClusterPolicy
from deployments.front.replica_setup import read_policy


@pytest.mark.parametrize(
    ("text", "most"), [("replicas: {max: 4}", 4), ("replicas: {mxa: 4}", 2), (None, 2)]
)
def test_a_broken_file_does_not_keep_a_front_from_starting(
    tmp_path: Path, text: str | None, most: int
) -> None:
    path = tmp_path / "policy.yaml"
    if text is not None:
        path.write_text(text)
    config = AppConfig.model_validate(
        {"replica": {"replicas": 2}, "controller": {"policy_file": str(path)}}
    )
    policy = read_policy(config)
    assert policy.replicas.max == most
    assert (policy == ClusterPolicy.fixed(2)) == (most == 2)
