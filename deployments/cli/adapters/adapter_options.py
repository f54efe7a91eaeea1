"""Arguments and options that several commands about adapters share."""

from enum import StrEnum
from typing import Annotated

import typer


class BaseCheckName(StrEnum):
    """What ``--base-check`` takes."""

    SHAPES = "shapes"
    NAME = "name"


NameArgument = Annotated[str, typer.Argument(metavar="NAME")]
NameOrDigestArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME|DIGEST", help="Of a digest its first characters will do, at least four."
    ),
]
OwnerOption = Annotated[
    str | None,
    typer.Option("--tenant", metavar="NAME", help="A tenant's own adapter. Default: a shared one."),
]
ExpectOption = Annotated[
    str | None,
    typer.Option(
        "--expect",
        metavar="DIGEST",
        help="Only if the name points to this version now; its first characters will do.",
    ),
]
BaseCheckOption = Annotated[
    BaseCheckName | None,
    typer.Option(
        "--base-check",
        help="What must agree with the base for this one: with name the same name is enough where "
        "digests differ, with shapes neither is compared. Default: as the cluster is configured.",
    ),
]
