"""Each broken policy is refused with the path of the mistake and with what to do."""

import pytest

from cluster.placement.policy.policy_load import examine_policy
from testing.broken_policies import BROKEN_POLICIES, BrokenPolicy


@pytest.mark.parametrize("broken", BROKEN_POLICIES, ids=lambda broken: broken.text[:40])
def test_a_mistake_is_named_with_its_path_and_what_to_do(broken: BrokenPolicy) -> None:
    reading = examine_policy(broken.text.encode())
    assert reading.policy is None
    told = [p.words for p in reading.problems if p.path == broken.path]
    assert any(broken.words in words for words in told), reading.problems
    assert all(len(str(problem)) < 400 for problem in reading.problems)


def test_there_are_enough_of_them() -> None:
    assert len({broken.text for broken in BROKEN_POLICIES}) >= 100
