"""``braid tenants``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from cluster.errors import ConfigError
from deployments.cli.toolkit import console
from deployments.cli.toolkit.client import open_state
from deployments.local.local_state import StateDir, read_json

ALL_ADAPTERS = "*"

tenants_app = typer.Typer(no_args_is_help=True, help="See who may use what.")


@tenants_app.callback()
def _group() -> None:
    """Show the rights of the tenants."""


@tenants_app.command("list")
def list_tenants(
    show_keys: Annotated[
        bool, typer.Option("--keys", help="Show the demo tenants' keys as well.")
    ] = False,
) -> None:
    """List the tenants of the cluster that `braid up` started last, with their rights."""
    from cluster.tenancy.keys import read_keys
    from cluster.tenancy.tenants import load_tenants

    state = open_state()
    path = tenants_file(state)
    keys = read_keys(state.keys) if show_keys and path == state.tenants else {}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("tenant", "role", "adapters", "requests/min", "tokens/min", "at once"):
        table.add_column(column, overflow="fold")
    tenants = load_tenants(path).tenants
    for tenant in tenants:
        rights = "all" if ALL_ADAPTERS in tenant.adapters else ", ".join(sorted(tenant.adapters))
        limits = tenant.limits
        counts = (limits.requests_per_minute, limits.tokens_per_minute, limits.max_concurrent)
        table.add_row(
            Text(tenant.id, style="bold"),
            " ".join(name for name in ("admin", "metrics") if getattr(tenant, name)),
            rights or "none",
            *("-" if count is None else str(count) for count in counts),
        )
    console.out.print(table)
    if not show_keys:
        return
    if path != state.tenants:
        raise ConfigError(f"{path}: a tenants file has hashes of keys only; keep the keys yourself")
    console.out.print()
    for tenant in tenants:
        console.plain(f"{tenant.id:<8}{keys.get(tenant.id, '(not kept)')}")


@tenants_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="A tenants file.", show_default=False)],
) -> None:
    """Check a tenants file before a cluster takes it: exit status 1 and every mistake, or 0."""
    from cluster.tenancy.tenants import load_tenants

    tenants = load_tenants(file).tenants
    admins = [tenant.id for tenant in tenants if tenant.admin]
    console.out.print(
        Text(f"{file}: {len(tenants)} tenants, administrators: {', '.join(admins) or 'none'}")
    )


def tenants_file(state: StateDir) -> Path:
    """Find the file that the last ``braid up`` named, else the demo tenants'.

    Raises:
        ConfigError: there was no ``braid up`` yet.
    """
    run = read_json(state.run)
    named = run.get("tenants_file") if run is not None else None
    path = Path(str(named)) if named else state.tenants
    if not path.exists():
        raise ConfigError(f"{path}: no tenants yet; start a cluster with `braid up` to make them")
    return path
