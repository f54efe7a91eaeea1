"""Steps that several commands of ``braid policy`` share: findings, changes, applying."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import typer
from rich.text import Text

from cluster.errors import ConfigError, PolicyConflict, QuotaExceeded
from cluster.placement.policy.differences import consequences, differences
from cluster.placement.policy.policy_load import refusal
from cluster.placement.policy.policy_versions import LONGEST_OVERRIDE_S, SHORTEST_OVERRIDE_S
from cluster.placement.policy.problems import PolicyProblem
from cluster.placement.policy.units import DAY_S, read_seconds
from deployments.cli.policies import policy_facts
from deployments.cli.policies.policy_facts import ComparedPolicy, NamedText, PolicyThere
from deployments.cli.toolkit import console
from deployments.cli.toolkit.client import BraidClient, admin_client
from deployments.cli.toolkit.server_policy import POLICY

PAUSES_S = (0.2, 0.4, 0.8, 1.6, 3.0, 4.0, 5.0, 5.0, 5.0, 5.0)
"""Between looks at who goes by a version. They grow: an administrator may have few requests."""
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


@contextmanager
def asking(url: str | None, key: str | None) -> Iterator[tuple[BraidClient, PolicyThere]]:
    """Open the client of an administrator and ask for the policy in force.

    Raises:
        NoServer, ConfigError: as ``admin_client``, and as ``PolicyThere.ask``.
    """
    with admin_client(url, key) as client:
        there = PolicyThere.ask(client)
        if there.shown["error"]:
            console.note(there.shown["error"])
        yield client, there


def apply_text(
    client: BraidClient,
    there: PolicyThere,
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
    _check_source(there.shown["managed_by"], overrides=seconds is not None)
    verdict = policy_facts.judge(new, there.defaults, there.present)
    if verdict.policy is None or verdict.problems:
        raise ConfigError(refusal(verdict.problems, new.name))
    if not as_json:
        show_findings(new.name, (), verdict.warnings)
        show_changes(there, there.in_force, ComparedPolicy(new.name, verdict.policy))
    if not yes and not typer.confirm("Put it in force?", err=True):
        raise typer.Exit(1)
    applied = client.put(
        POLICY,
        {
            "text": new.text,
            "message": message or f"applied from {new.name}",
            "expected": there.shown["version"],
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
            f"not everybody goes by it after {sum(PAUSES_S):g} s; see following and error in "
            "`braid policy show --json`"
        )


def _override_seconds(override: str | None) -> float | None:
    if override is None:
        return None
    try:
        seconds = read_seconds(float(override) if _NUMBER.fullmatch(override) else override)
    except ValueError as error:
        raise ConfigError(f"--override: {error}") from error
    if not SHORTEST_OVERRIDE_S <= seconds <= LONGEST_OVERRIDE_S:
        raise ConfigError(
            f"--override: must be {SHORTEST_OVERRIDE_S:g}s to {LONGEST_OVERRIDE_S / DAY_S:g}d, "
            f"not {override}"
        )
    return seconds


def _check_source(file: str | None, *, overrides: bool) -> None:
    """Refuse what the server would refuse, before anybody is asked anything."""
    if file is not None and not overrides:
        raise PolicyConflict(
            f"managed by {file}; change that file, or replace it for a time with --override 1h"
        )
    if file is None and overrides:
        raise PolicyConflict("no file manages the policy; leave out --override")


def _wait_followed(client: BraidClient, version: int) -> bool:
    for pause_s in (0.0, *PAUSES_S):
        time.sleep(pause_s)
        following = _shown_once_allowed(client)["following"]
        if {following["controller"], *following["fronts"].values()} == {version}:
            return True
    return False


def _shown_once_allowed(client: BraidClient) -> dict[str, Any]:
    while True:
        try:
            return client.get(POLICY)
        except QuotaExceeded as error:  # the administrator's requests of this minute are used up
            time.sleep(error.retry_after_s)


def show_changes(
    there: PolicyThere, before: ComparedPolicy, after: ComparedPolicy, *, as_json: bool = False
) -> None:
    """Print the fields that change from one policy to another, and what the cluster does then."""
    changes = differences(before.policy, after.policy)
    follows = list(consequences(before.policy, after.policy, there.present, datetime.now(UTC)))
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
