"""Arguments and options that several commands about adapters share."""

from enum import StrEnum
from typing import Annotated

import typer


class BaseCheckName(StrEnum):
    """Choices of ``--base-check``."""

    SHAPES = "shapes"
    NAME = "name"


NameArgument = Annotated[str, typer.Argument(metavar="NAME")]
NameOrDigestArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME|DIGEST", help="A digest may be cut to its first characters, at least four."
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
        help="Only if this is the name's version now; its first characters are enough.",
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
