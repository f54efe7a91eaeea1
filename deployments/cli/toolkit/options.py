"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

JSON_WANTED = "braid.json"
"""In a context's ``meta``: whether the command was given --json."""


def _remember_json(context: typer.Context, wanted: bool) -> bool:
    context.meta[JSON_WANTED] = wanted
    return wanted


UrlOption = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="The server. Default: the cluster of `braid up`."),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key", metavar="KEY", help="API key. Default: BRAID_API_KEY, else the demo's own."
    ),
]
TenantOption = Annotated[
    str | None,
    typer.Option("--tenant", metavar="NAME", help="Use the kept key of this demo tenant."),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print JSON, for programs.", callback=_remember_json),
]
AdaptersOption = Annotated[
    Path,
    typer.Option("--adapters", metavar="DIR", help="Folder of PEFT folders."),
]
