"""``braid policy``: what is in force, what would change, and another one."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from cluster.placement.policy.units import printable
from deployments.cli.toolkit import console
from deployments.cli.toolkit.client import admin_client
from deployments.cli.toolkit.interruption import importing
from deployments.cli.toolkit.options import JsonOption, KeyOption, UrlOption
from deployments.cli.toolkit.server_policy import POLICY, defaults_of

CLUSTER = "cluster"

policy_app = typer.Typer(
    no_args_is_help=True, help="Show, check and apply the policy of placing and scaling."
)

MessageOption = Annotated[
    str | None, typer.Option("-m", "--message", metavar="WHY", help="Kept with the version.")
]
OverrideOption = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Replace the policy of a mounted file for so long, such as 1h; it returns by itself.",
        show_default=False,
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@policy_app.callback()
def _group() -> None:
    """Show, check and apply the policy of placing and scaling."""


@policy_app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="POLICY.yaml", show_default=False)],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="cluster|STATUS.json",
            help="Compare tenants, adapters and room as well: with a running cluster, or with a "
            "saved answer of GET /admin/v1/status.",
            show_default=False,
        ),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a policy before a cluster has it: every mistake with its path and what to do."""
    with importing():
        from deployments.cli.policies import policy_facts, policy_steps

    defaults = present = None
    if against == CLUSTER or (against is None and url is not None):
        with admin_client(url, key) as client:
            there = policy_facts.PolicyThere.ask(client)
        defaults, present = there.defaults, there.present
    elif against is not None:
        present = policy_facts.saved_cluster(Path(against))
    verdict = policy_facts.judge(policy_facts.read_policy_file(file), defaults, present)
    if as_json:
        found = {"problems": verdict.problems, "warnings": verdict.warnings}
        console.print_json(
            {name: [policy_steps.described(one) for one in each] for name, each in found.items()}
        )
    else:
        policy_steps.show_findings(str(file), verdict.problems, verdict.warnings)
        if not verdict.problems:
            count = len(verdict.warnings)
            words = f"{count} warning{'' if count == 1 else 's'}" if count else "no warnings"
            console.out.print(Text(f"{file}: right, {words}", style="green"), soft_wrap=True)
    if verdict.problems:
        raise typer.Exit(1)


@policy_app.command()
def show(
    effective: Annotated[
        bool, typer.Option("--effective", help="All fields, with the defaults filled in.")
    ] = False,
    version: Annotated[
        int | None, typer.Option(min=1, help="Another one than that in force.", show_default=False)
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the policy in force: the document as it was written, who wrote it, and why."""
    with importing():
        from deployments.cli.policies import policy_facts, policy_words

    with admin_client(url, key) as client:
        shown = client.get(POLICY)
        kept = shown if version is None else client.get(f"{POLICY}/versions/{version}")
    has_text = version is not None or kept["text"]
    if version is not None and effective:
        text = policy_facts.NamedText(f"version {version}", kept["text"])
        policy = policy_facts.parsed(text, defaults_of(shown))
        kept = {**kept, "effective": policy.model_dump(mode="json", by_alias=True)}
    if as_json:
        console.print_json(kept)
        return
    for line in policy_words.comments(kept):
        console.out.print(Text(line, style="dim"), soft_wrap=True)
    if effective or not has_text:
        console.plain(policy_words.as_yaml(kept["effective"]))
    else:
        console.plain(kept["text"].rstrip("\n"))
    if version is None and shown["error"]:
        console.note(shown["error"])


@policy_app.command()
def diff(
    changed: Annotated[
        str, typer.Argument(metavar="POLICY.yaml|N", help="A file, or a version's number.")
    ],
    base: Annotated[
        str | None,
        typer.Argument(
            metavar="[BASE]", help="Compared with. Default: what is in force.", show_default=False
        ),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which fields would change, defaults included, and what the cluster would do then."""
    with importing():
        from deployments.cli.policies import policy_facts, policy_steps

    with policy_steps.asking(url, key) as (client, there):
        after = there.read(policy_facts.text_of(changed, client))
        before = there.in_force if base is None else there.read(policy_facts.text_of(base, client))
        policy_steps.show_changes(there, before, after, as_json=as_json)


@policy_app.command()
def apply(
    file: Annotated[Path, typer.Argument(metavar="POLICY.yaml", show_default=False)],
    message: MessageOption = None,
    override: OverrideOption = None,
    yes: YesOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a policy in force without a restart: checked, compared, asked, kept as a version."""
    with importing():
        from deployments.cli.policies import policy_facts, policy_steps

    new = policy_facts.read_policy_file(file)
    with policy_steps.asking(url, key) as (client, there):
        policy_steps.apply_text(client, there, new, message, override, yes=yes, as_json=as_json)


@policy_app.command()
def history(url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the versions: who, when, why."""
    with importing():
        from deployments.cli.policies import policy_words

    with admin_client(url, key) as client:
        versions = client.get(f"{POLICY}/history")["data"]
        now = client.get(POLICY)["version"]
    if as_json:
        console.print_json(versions)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("version", "when", "who", "why", "text"):
        table.add_column(column, overflow="fold")
    for one in versions:
        mark = " (in force)" if one["version"] == now else ""
        table.add_row(
            Text(f"{one['version']}{mark}", style="bold"),
            policy_words.when(one["at"]),
            Text(one["author"]),
            Text(printable(one["message"])),
            console.short_digest(one["sha256"]),
        )
    console.out.print(table)


@policy_app.command()
def rollback(
    version: Annotated[int, typer.Argument(metavar="N", min=1, show_default=False)],
    message: MessageOption = None,
    override: OverrideOption = None,
    yes: YesOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put the text of an earlier version in force again, as a new version."""
    with importing():
        from deployments.cli.policies import policy_facts, policy_steps

    with policy_steps.asking(url, key) as (client, there):
        old = policy_facts.text_of(str(version), client)
        why = f"back to version {version}" + (f": {message}" if message else "")
        policy_steps.apply_text(client, there, old, why, override, yes=yes, as_json=as_json)
