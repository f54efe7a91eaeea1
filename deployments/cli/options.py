"""Options that several commands have."""

from typing import Annotated

import typer

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
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
