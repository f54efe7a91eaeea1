"""Steps that several commands of ``braid policy`` share: findings, changes, applying."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from rich.text import Text

from cluster.errors import ConfigError
from cluster.placement.policy.differences import consequences, differences
from cluster.placement.policy.policy_load import refusal
from cluster.placement.policy.problems import PolicyProblem
from cluster.placement.policy.units import read_seconds
from deployments.cli.policies import policy_facts
from deployments.cli.policies.policy_facts import NamedText
from deployments.cli.toolkit import console
from deployments.cli.toolkit.client import BraidClient

FOLLOW_S = 30.0
POLL_S = 0.2


def apply_text(
    client: BraidClient,
    new: NamedText,
    message: str | None,
    override: str | None,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Apply a text that is right, if people agree, and wait until everybody goes by it.

    Raises:
        ConfigError: the text or the time of the override is wrong.
        PolicyConflict: a file manages the policy, or another version came first.
    """
    seconds = _override_seconds(override)
    shown = client.get(policy_facts.POLICY)
    present = policy_facts.present_cluster_of(client.get(policy_facts.STATUS))
    verdict = policy_facts.judge(new, policy_facts.defaults_of(shown), present)
    if verdict.problems:
        raise ConfigError(refusal(verdict.problems, new.name))
    if not as_json:
        show_findings(new.name, (), verdict.warnings)
        show_changes(policy_facts.in_force(shown), new, shown, client)
    if not yes and not typer.confirm("Put it in force?", err=True):
        raise typer.Exit(1)
    applied = client.put(
        policy_facts.POLICY,
        {
            "text": new.text,
            "message": message or f"applied from {new.name}",
            "expected": shown["version"],
            "override_s": seconds,
        },
    )
    followed = _wait_followed(client, applied["version"])
    if as_json:
        console.print_json({**applied, "followed": followed})
        return
    done = "in force" if applied["changed"] else "was in force already"
    console.out.print(Text(f"version {applied['version']} {done}", style="bold green"))
    if not followed:
        console.note(
            f"not everybody goes by it after {FOLLOW_S:g} s; see following and error in "
            "`braid policy show --json`"
        )


def _override_seconds(override: str | None) -> float | None:
    if override is None:
        return None
    try:
        return read_seconds(override)
    except ValueError as error:
        raise ConfigError(f"--override: {error}") from error


def _wait_followed(client: BraidClient, version: int) -> bool:
    deadline = time.monotonic() + FOLLOW_S
    while True:
        following = client.get(policy_facts.POLICY)["following"]
        said = {following["controller"], *following["fronts"].values()}
        if said == {version}:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)


def show_changes(
    before: NamedText,
    after: NamedText,
    shown: Mapping[str, Any],
    client: BraidClient,
    *,
    as_json: bool = False,
) -> None:
    """Print the fields that change from one text to another, and what the cluster does then."""
    defaults = policy_facts.defaults_of(shown)
    old, new = (policy_facts.parsed(named, defaults) for named in (before, after))
    changes = differences(old, new)
    present = policy_facts.present_cluster_of(client.get(policy_facts.STATUS))
    follows = list(consequences(old, new, present, datetime.now(UTC)))
    if as_json:
        fields = [
            {"path": change.path, "before": change.before, "after": change.after}
            for change in changes
        ]
        console.print_json({"changes": fields, "consequences": follows})
        return
    console.out.print(Text(f"{before.name} -> {after.name}", style="dim"), soft_wrap=True)
    for change in changes:
        console.plain(str(change))
    if not changes:
        console.out.print(Text("no field changes", style="dim"))
    for words in follows:
        console.out.print(Text(f"  {words}", style="yellow"), soft_wrap=True)


def show_findings(
    name: str, problems: Sequence[PolicyProblem], warnings: Sequence[PolicyProblem]
) -> None:
    """Print problems and warnings, one on each line."""
    for problem in problems:
        where = f"{name}:{problem.line}" if problem.line else name
        console.out.print(Text(f"{where}: {problem}", style="red"), soft_wrap=True)
    for warning in warnings:
        console.out.print(Text(f"{name}: warning: {warning}", style="yellow"), soft_wrap=True)


def described(problem: PolicyProblem) -> dict[str, Any]:
    """Return a problem for programs."""
    return {"path": problem.path, "message": problem.words, "line": problem.line}
