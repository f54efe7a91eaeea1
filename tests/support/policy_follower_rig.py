"""Followers of the policy, and what an operator does to it."""

from collections.abc import Callable
from pathlib import Path

from cluster.placement.policy.policy_versions import PolicyDraft
from deployments.controller.policy_follower import PolicyFollower

NOBODY = "redis://127.0.0.1:1/0"
Make = Callable[..., PolicyFollower]
"""``make(path=None, at=url)``: a controller's follower."""


def edit(path: Path, text: str | None) -> None:
    """Write the file, or take it away."""
    if text is None:
        path.unlink()
    else:
        path.write_text(text)


def draft(most: int) -> PolicyDraft:
    return PolicyDraft(f"replicas: {{max: {most}}}", "ann", "more")


def observes(follower: PolicyFollower) -> bool:
    """Report whether a follower changes nothing, since it knows no policy."""
    modes = (follower.policy.replicas.mode, follower.policy.placement.mode)
    return modes == ("observe", "observe") and not follower.known and follower.version == 0
