"""``braid adapters convert``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from deployments.cli.toolkit import console


def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="SRC", help="The trained adapter: PiSSA, OLoRA, CorDA or LoRA-GA."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the plain LoRA.")],
    initial: Annotated[
        Path,
        typer.Option(
            metavar="INIT",
            help="The same adapter as it was before training.",
            show_default=False,
        ),
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what OUT already holds.")
    ] = False,
) -> None:
    """Convert an adapter whose initialisation changed the base into a plain LoRA of twice the
    rank.

    The plain LoRA on the unchanged base computes what the adapter computes on its changed base.
    """
    from router_service.artifacts.outputs import claim_folder
    from training.merging.conversion import convert_adapter

    claim_folder(out, overwrite=overwrite, reads=(source, initial))
    nbytes, rank = convert_adapter(source, initial, out)
    console.out.print(
        Text("converted ", style="bold green") + Text(f"{out}: rank {rank}, {console.size(nbytes)}")
    )
