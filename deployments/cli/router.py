"""``braid router``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from deployments.cli import console

router_app = typer.Typer(no_args_is_help=True, help="Bring in routers that others trained.")


@router_app.callback()
def _group() -> None:
    """Bring in routers that others trained."""


@router_app.command("import")
def import_router(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="State dict, .pth or .safetensors.", show_default=False
        ),
    ],
    encoder: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="The ALBERT or RoBERTa encoder: config.json and tokenizer.",
            show_default=False,
        ),
    ],
    adapters: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Adapter list: one PEFT folder per line, in class order.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="Folder for the router's artifact.", show_default=False
        ),
    ],
    aliases: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Aliases in line order. Default: the folders' names."),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(min=3, help="Longest text in the encoder's tokens.")
    ] = 256,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what --out already holds.")
    ] = False,
) -> None:
    """Import a published DLP-LoRA checkpoint; serve it with `braid up --router DIR`."""
    from router_service.routers.encoder_import import import_checkpoint

    manifest = import_checkpoint(
        checkpoint,
        encoder,
        adapters,
        out,
        aliases=tuple(name.strip() for name in aliases.split(",")) if aliases else None,
        max_tokens=max_tokens,
        overwrite=overwrite,
    )
    console.out.print(
        Text("imported ", style="bold green")
        + Text(f"{out}: {len(manifest.candidates)} candidates, version {manifest.version[:12]}")
    )
