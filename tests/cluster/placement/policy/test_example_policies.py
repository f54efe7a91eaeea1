"""The policies that are shipped: right, and without anything to warn of."""

from pathlib import Path

import pytest

from cluster.placement.policy.advice import advice
from cluster.placement.policy.policy_load import load_policy

ROOT = Path(__file__).parents[4]
SHIPPED = sorted([*ROOT.glob("examples/policies/*.yaml"), *ROOT.glob("k8s/overlays/*/policy.yaml")])


def test_they_are_found() -> None:
    assert len(SHIPPED) == 5


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_each_is_right(path: Path) -> None:
    policy = load_policy(path)
    assert list(advice(policy)) == []
    assert "version" in policy.model_fields_set
