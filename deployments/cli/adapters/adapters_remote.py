"""``braid adapters``: what changes the adapters of a running cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import orjson
import typer
from rich.table import Table
from rich.text import Text

from cluster.errors import AdapterConflict, ConfigError
from deployments.cli.adapters.adapter_options import (
    BaseCheckOption,
    ExpectOption,
    NameArgument,
    NameOrDigestArgument,
    OwnerOption,
)
from deployments.cli.adapters.pack import packed
from deployments.cli.adapters.version_names import ROUTES, SWITCH_PATH, ask_about, full_digest
from deployments.cli.toolkit import console
from deployments.cli.toolkit.client import BraidClient, admin_client
from deployments.cli.toolkit.options import JsonOption, KeyOption, UrlOption
from deployments.cli.toolkit.refusal import advised

ROUTER_FILE = "router.json"


def add(
    name: NameArgument,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A PEFT folder or archive here, hub:ORG/NAME[@REVISION], a URL, or with "
            "--on-server a folder there.",
        ),
    ],
    on_server: Annotated[
        bool,
        typer.Option("--on-server", help="SOURCE is a folder under the server's source_dir."),
    ] = False,
    tenant: OwnerOption = None,
    grant: Annotated[
        list[str] | None,
        typer.Option(metavar="TENANT", help="Who else may use a shared one; '*' is everyone."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="The name may exist; it is switched.")
    ] = False,
    expect: ExpectOption = None,
    base_check: BaseCheckOption = None,
    key: KeyOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add an adapter, or replace one; it can be used when this returns.

    It is checked first, stored under its digest, and tried by the replicas. Requests that run
    keep the version that they began with.
    """
    fields: dict[str, Any] = {"name": name, "replace": replace}
    if tenant is not None:
        fields["tenant"] = tenant
    if grant:
        fields["grants"] = grant
    if base_check is not None:
        fields["base_check"] = base_check.value
    with admin_client(url, key) as client:
        if expect is not None:
            fields["expected"] = full_digest(client, expect)
        where = None if on_server else _local(source)
        with _conflict_advised(replace, expect):
            if where is None:
                card = client.post(ROUTES, {**fields, "source": _source(source, on_server)}).body
            else:
                card = _upload(client, fields, where)
    _show(card, as_json, "serving")
    for note in () if as_json else card.get("notes", ()):
        console.note(note)
    if where is not None and (where / ROUTER_FILE).is_file():
        console.note(_about_routers(where, name))


def _about_routers(where: Path, name: str) -> str:
    """Advise on the routers that were trained with an adapter, for one name."""
    known = orjson.loads((where / ROUTER_FILE).read_bytes()).get("candidates", [name])
    if name in known:
        return f"it has routers of its modules: `braid router add {name} {where}`"
    return (
        f"it has routers of its modules, but for the name {', '.join(known)}: add it under that "
        "name to use them"
    )


def show(
    name: NameOrDigestArgument,
    tenant: OwnerOption = None,
    key: KeyOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show an adapter: its version, its history, and which replicas hold it."""
    with admin_client(url, key) as client:
        card = ask_about(client, name, lambda meant: client.get(_path(meant, tenant=tenant)))
    if as_json:
        console.print_json(card)
        return
    table = Table.grid(padding=(0, 2))
    for label in ("name", "owner", "state", "version", "source", "description"):
        if card.get(label):
            table.add_row(Text(label, style="dim"), Text(str(card[label])))
    for label in ("rank", "pinned", "chat_template"):
        if label in card:
            table.add_row(Text(label, style="dim"), str(card[label]))
    console.out.print(table)
    for note in card.get("notes", ()):
        console.plain(f"  note: {note}")
    for step in card.get("history", ()):
        words = f"  {console.short_digest(step['version'])}  by {step['by']}"
        console.plain(words + ("  (rolled back)" if step["rollback"] else ""))
    for held in card.get("residency", ()):
        console.plain(f"  {held['replica']}: {held['tier']}, {held['leases']} leases")
    for adding in card.get("adding", ()):
        console.plain(f"  being added: {adding['version']}, {len(adding['answers'])} answers")


def switch(
    name: NameArgument,
    version: Annotated[
        str, typer.Argument(metavar="DIGEST", help="Its first characters are enough.")
    ],
    tenant: OwnerOption = None,
    expect: ExpectOption = None,
    key: KeyOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Switch a name, old or new, to a registered version."""
    with admin_client(url, key) as client:
        body: dict[str, Any] = {"version": full_digest(client, version)}
        body |= _meant(client, tenant, expect)
        card = client.post(_path(name, SWITCH_PATH), body).body
    _show(card, as_json, "switched to")


def rollback(
    name: NameArgument,
    tenant: OwnerOption = None,
    expect: ExpectOption = None,
    key: KeyOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Switch a name back to its version before; each call goes back one more."""
    with admin_client(url, key) as client:
        card = client.post(_path(name, "rollback"), _meant(client, tenant, expect)).body
    _show(card, as_json, "rolled back to")


def pin(
    name: NameArgument,
    tenant: OwnerOption = None,
    key: KeyOption = None,
    url: UrlOption = None,
) -> None:
    """Keep an adapter on every replica."""
    _pin(name, tenant, True, key, url)


def unpin(
    name: NameArgument,
    tenant: OwnerOption = None,
    key: KeyOption = None,
    url: UrlOption = None,
) -> None:
    """Let an adapter be evicted again."""
    _pin(name, tenant, False, key, url)


def remove(
    name: NameOrDigestArgument,
    tenant: OwnerOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also a pinned one, or a version that names have.")
    ] = False,
    expect: ExpectOption = None,
    key: KeyOption = None,
    url: UrlOption = None,
) -> None:
    """Remove an adapter. Requests that run end with it; then its memory and files are freed."""
    forced = "true" if force else None
    with admin_client(url, key) as client:
        if expect is None:
            answer = ask_about(
                client, name, lambda meant: client.delete(_path(meant, tenant=tenant, force=forced))
            )
        else:  # of a name alone
            expected = full_digest(client, expect)
            answer = client.delete(_path(name, tenant=tenant, force=forced, expected=expected))
    console.out.print(Text(f"{answer['name']} removed", style="bold green"))
    for digest in answer["freed"]:
        console.plain(f"  freed {digest}")
    for waiting in answer["waiting"]:
        leases = sum(held["leases"] for held in waiting["residency"])
        console.note(f"{waiting['version']} is still in use ({leases} leases)")


def verify(
    name: NameOrDigestArgument,
    tenant: OwnerOption = None,
    key: KeyOption = None,
    url: UrlOption = None,
) -> None:
    """Read an adapter's files again and compare them with the digest."""
    with admin_client(url, key) as client:
        answer = ask_about(
            client, name, lambda meant: client.post(_path(meant, "verify", tenant=tenant), {}).body
        )
    console.plain(f"intact: {answer['version']}")


def _upload(client: BraidClient, fields: dict[str, Any], where: Path) -> dict[str, Any]:
    query = {**fields, "replace": str(fields["replace"]).lower()}
    if "grants" in fields:
        query["grants"] = ",".join(fields["grants"])
    with packed(where) as archive:
        return client.upload(ROUTES, query, archive)


@contextmanager
def _conflict_advised(replace: bool, expect: str | None) -> Iterator[None]:
    """Add advice for the command line to a conflict over a name that exists."""
    try:
        yield
    except AdapterConflict as error:
        if replace or expect is not None or error.param != "expected":
            raise
        raise advised(error, "that is --expect DIGEST here, or --replace") from error.__cause__


def _pin(name: str, tenant: str | None, pinned: bool, key: str | None, url: str | None) -> None:
    with admin_client(url, key) as client:
        client.post(_path(name, "pin"), {**_meant(client, tenant, None), "pinned": pinned})
    console.plain(f"{name} {'pinned' if pinned else 'unpinned'}")


def _path(name: str, action: str = "", **query: str | None) -> str:
    path = f"{ROUTES}/{quote(name, safe='')}" + (f"/{action}" if action else "")
    given = "&".join(f"{key}={quote(value)}" for key, value in query.items() if value is not None)
    return f"{path}?{given}" if given else path


def _meant(client: BraidClient, tenant: str | None, expect: str | None) -> dict[str, Any]:
    body: dict[str, Any] = {} if tenant is None else {"tenant": tenant}
    if expect is not None:
        body["expected"] = full_digest(client, expect)
    return body


def _local(source: str) -> Path | None:
    """Find the folder or archive that SOURCE names here; returns None if it names something else.

    Raises:
        ConfigError: it looks like a path, and there is nothing.
    """
    if "://" in source or source.startswith("hub:"):
        return None
    path = Path(source).expanduser()
    if not path.exists():
        raise ConfigError(
            f"{source}: no such folder or archive; a repository of the hub is hub:ORG/NAME, a "
            "folder of the server needs --on-server"
        )
    return path


def _source(source: str, on_server: bool) -> dict[str, str]:
    if on_server:
        return {"folder": source}
    if source.startswith("hub:"):
        repository, at, revision = source.removeprefix("hub:").partition("@")
        return {"hub": repository, **({"revision": revision} if at else {})}
    return {"url": source}


def _show(card: dict[str, Any], as_json: bool, words: str) -> None:
    if as_json:
        console.print_json(card)
        return
    console.plain(f"{card['name']} {words} {card['version']}, rank {card['rank']}")
