"""The policies that are shipped: right, and without anything to warn of."""

import re
from pathlib import Path

import pytest
import yaml

from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.advice import advice
from cluster.placement.policy.differences import differences, flattened
from cluster.placement.policy.policy_load import load_policy, parse_policy

ROOT = Path(__file__).parents[4]
SHIPPED = sorted([*ROOT.glob("examples/policies/*.yaml"), *ROOT.glob("k8s/overlays/*/policy.yaml")])


def test_they_are_found() -> None:
    assert len(SHIPPED) == 5


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_each_is_right(path: Path) -> None:
    policy = load_policy(path)
    assert list(advice(policy)) == []
    assert "version" in policy.model_fields_set


def test_the_chapter_has_every_field_with_its_default() -> None:
    chapter = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(version: 2.*?)```", chapter, flags=re.DOTALL)
    policy = parse_policy(block.encode(), source="operations.md")
    assert differences(policy, ClusterPolicy()) == ()
    written = yaml.safe_load(block)
    for path in flattened(ClusterPolicy()):
        place = written
        for key in path.split("."):
            assert key in place, f"{path} is not in the chapter"
            place = place[key]
