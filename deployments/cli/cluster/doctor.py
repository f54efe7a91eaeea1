"""``braid doctor``."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from cluster.config import AppConfig, Settings
from deployments.cli.toolkit import console

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="The port that `braid up` would use.")
    ] = AppConfig().front.port,
) -> None:
    """Check this machine: versions, memory, GPU, port, model, Redis, files; with a fix for each
    fault.

    Ends with status 1 when something would keep a cluster from running.
    """
    from deployments.cli.cluster.checks import Verdict, all_checks
    from deployments.cli.cluster.machine_checks import machine_checks

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    failed = 0
    with console.spinner("looking"):
        for check in (*all_checks(Settings(), port), *machine_checks(Settings())):
            result = check()
            failed += result.verdict is Verdict.FAIL
            found = Text(result.found)
            if result.fix:
                found += Text(f"\n-> {result.fix}", style="bold")
            table.add_row(
                Text(result.verdict.value, style=STYLES[result.verdict.value]),
                result.name,
                found,
            )
    console.out.print(table)
    if failed:
        raise typer.Exit(1)
