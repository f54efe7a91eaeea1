"""``braid adapters``."""

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from cluster.errors import ConfigError, PermissionDenied
from deployments.cli.adapters import adapters_remote, convert, merge_command
from deployments.cli.toolkit import console
from deployments.cli.toolkit.client import admin_client
from deployments.cli.toolkit.options import JsonOption, KeyOption, UrlOption

ALL_ADAPTERS = "*"
SHARED = "shared"

adapters_app = typer.Typer(no_args_is_help=True, help="See and change the adapters of the cluster.")


@adapters_app.callback()
def _group() -> None:
    """Add, change and list the adapters of the cluster, or make one out of several."""


for _name, _command in (
    ("add", adapters_remote.add),
    ("show", adapters_remote.show),
    ("switch", adapters_remote.switch),
    ("rollback", adapters_remote.rollback),
    ("pin", adapters_remote.pin),
    ("unpin", adapters_remote.unpin),
    ("rm", adapters_remote.remove),
    ("verify", adapters_remote.verify),
    ("merge", merge_command.merge),
    ("convert", convert.convert),
):
    adapters_app.command(_name)(_command)


@adapters_app.command("list")
def list_adapters(
    tenant: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only what this tenant may use.")
    ] = None,
    key: KeyOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List adapters: rank, size, digest, and which replicas hold them.

    Size and residency need an administrator's key; with another key its own adapters are listed.
    """
    with admin_client(url, key) as client:
        try:
            status = client.get("/admin/v1/status")
        except PermissionDenied:
            if tenant is not None:
                raise
            rows = from_models(client.get("/v1/models")["data"])
        else:
            rows = from_status(status, tenant)
    if as_json:
        console.print_json(rows)
        return
    if not rows:
        console.out.print("no adapters")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("adapter", style="bold", no_wrap=True)
    table.add_column("rank", justify="right")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("digest", no_wrap=True)
    table.add_column("resident on", overflow="fold")
    table.add_column("what it does")
    for row in rows:
        table.add_row(
            Text(label(row)),
            str(row["rank"]),
            console.size(row["bytes"]) if "bytes" in row else "",
            console.short_digest(row["digest"]),
            ", ".join(row.get("resident", ())),
            Text(row["description"]),
        )
    console.out.print(table)


def from_status(status: dict[str, Any], tenant: str | None) -> list[dict[str, Any]]:
    """List rows of ``/admin/v1/status``, of one tenant if it is named.

    Raises:
        ConfigError: the tenant does not exist.
    """
    rights: set[str] = set()
    if tenant is not None:
        known = {entry["id"]: set(entry["adapters"]) for entry in status["tenants"]}
        if tenant not in known:
            raise ConfigError(f"--tenant {tenant}: no such tenant; there are: {', '.join(known)}")
        rights = known[tenant]
    return [
        {**adapter, "resident": holders(status, adapter["digest"])}
        for adapter in status["adapters"]
        if tenant is None or _may_use(adapter, tenant, rights)
    ]


def _may_use(adapter: dict[str, Any], tenant: str, rights: set[str]) -> bool:
    owner = adapter.get("owner", SHARED)
    if owner != SHARED:
        return bool(owner == tenant)
    granted = {ALL_ADAPTERS, tenant} & set(adapter.get("grants", ()))
    return ALL_ADAPTERS in rights or adapter["name"] in rights or bool(granted)


def label(adapter: dict[str, Any]) -> str:
    """Write a name for people; a tenant's own has its owner before it."""
    owner = adapter.get("owner", SHARED)
    shown = adapter["name"] if owner in (SHARED, "braid") else f"{owner}/{adapter['name']}"
    return f"{shown} (pinned)" if adapter.get("pinned") else shown


def holders(status: dict[str, Any], digest: str) -> list[str]:
    """List the replicas that have loaded a version, with its state unless that is "ready"."""
    return [
        replica["replica_id"] + ("" if held["state"] == "ready" else f" ({held['state']})")
        for replica in status["replicas"]
        for held in replica["resident"]
        if held["digest"] == digest
    ]


def from_models(cards: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """List rows of ``/v1/models``, for a key without the administrator's rights."""
    return [
        {
            "name": card["id"],
            "rank": card["rank"],
            "digest": card["root"],
            "description": card["description"],
        }
        for card in cards
        if "rank" in card
    ]
