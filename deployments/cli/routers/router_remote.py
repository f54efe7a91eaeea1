"""``braid router``: what changes the routers of a running cluster."""

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote

import orjson
import typer
from rich.table import Table
from rich.text import Text

from cluster.errors import ConfigError
from deployments.cli.toolkit import console
from deployments.cli.toolkit.client import admin_client
from deployments.cli.toolkit.options import JsonOption, KeyOption, UrlOption

ROUTES = "/admin/v1/routers"
BASE = "(base)"

NameArgument = Annotated[str, typer.Argument(metavar="NAME")]


def add(
    name: NameArgument,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]", help="The router's artifact; Arrow has none.", show_default=False
        ),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="Of a router without an artifact, such as arrow.")
    ] = None,
    options: Annotated[
        str | None, typer.Option(metavar="JSON", help="Settings, such as '{\"top_p\": 0.8}'.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="The name may exist; this one takes its place.")
    ] = False,
    key: KeyOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a router, or replace one: model `auto:NAME` answers by it when this returns.

    It is tried by every replica first. Its adapters must be there; requests that run are not
    changed.
    """
    settings = _settings(options)
    with admin_client(url, key) as client:
        if folder is None:
            body = {"name": name, "kind": kind, "options": settings, "replace": replace}
            card = client.post(ROUTES, body).body
        else:
            query = {"name": name, "replace": str(replace).lower()}
            if settings:
                query["options"] = orjson.dumps(settings).decode()
            with packed(folder) as archive:
                card = client.upload(ROUTES, query, archive)
    if as_json:
        console.print_json(card)
        return
    console.plain(f"auto:{name} serving {card['kind']} {console.short_digest(card['version'])}")


def list_routers(key: KeyOption = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the routers of a running cluster; the first one answers `auto`."""
    with admin_client(url, key) as client:
        cards = client.get(ROUTES)["data"]
    if as_json:
        console.print_json(cards)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("name", "kind", "version", "from", "candidates"):
        table.add_column(column)
    for card in cards:
        table.add_row(
            Text(card["name"], style="bold"),
            Text(card.get("kind") or "?"),
            Text(console.short_digest(card.get("version", ""))),
            Text(card["source"]),
            Text(card.get("problem") or _names(card), overflow="fold"),
        )
    console.out.print(table)


def show(name: NameArgument, key: KeyOption = None, url: UrlOption = None) -> None:
    """Show a router: its version, its settings, and the versions that it was made for."""
    with admin_client(url, key) as client:
        card = client.get(f"{ROUTES}/{quote(name, safe='')}")
    console.print_json(card)


def remove(name: NameArgument, key: KeyOption = None, url: UrlOption = None) -> None:
    """Remove a router that was added; a configured one of its name answers again."""
    with admin_client(url, key) as client:
        client.delete(f"{ROUTES}/{quote(name, safe='')}")
    console.out.print(Text(f"{name} removed", style="bold green"))


@contextmanager
def packed(folder: Path) -> Iterator[BinaryIO]:
    """Pack the files of an artifact into a temporary .tar.

    Raises:
        ConfigError: it has none.
    """
    from router_service.artifacts.artifact_store import KEPT_FILES

    files = [name for name in KEPT_FILES if (folder / name).is_file()]
    if files[:2] != list(KEPT_FILES[:2]):
        raise ConfigError(f"{folder}: a router has {KEPT_FILES[0]} and {KEPT_FILES[1]}")
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name in files:
                tar.add(folder / name, arcname=name)
        archive.seek(0)
        yield archive


def _settings(options: str | None) -> dict[str, Any]:
    try:
        settings = orjson.loads(options or "{}")
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"--options: not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"--options: expected a JSON object, found {options!r}")
    return settings


def _names(card: dict[str, Any]) -> str:
    return ", ".join(alias or BASE for alias in card.get("candidates", ()))
