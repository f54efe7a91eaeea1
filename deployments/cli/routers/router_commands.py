"""``braid router``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from cluster.config import Settings, cache_folder
from deployments.cli.routers import router_remote
from deployments.cli.toolkit import console

router_app = typer.Typer(
    no_args_is_help=True, help="Add routers to a running cluster; import those of others."
)


@router_app.callback()
def _group() -> None:
    """Add routers to a running cluster, or import published ones."""


router_app.command("list")(router_remote.list_routers)
router_app.command("add")(router_remote.add)
router_app.command("show")(router_remote.show)
router_app.command("rm")(router_remote.remove)


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
    from router_service.dlp.encoder_import import import_checkpoint

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
        + Text(
            f"{out}: {len(manifest.candidates)} candidates, "
            f"version {console.short_digest(manifest.version)}"
        )
    )


@router_app.command("import-gate")
def import_gate_file(
    gate: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Gate file, e.g. zh_math.pt.", show_default=False),
    ],
    adapters: Annotated[
        list[Path],
        typer.Option(
            "--adapter",
            metavar="DIR",
            help="PEFT folder of an adapter; give all, in the gate's order: language, then task.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="Folder for the router's artifact.", show_default=False
        ),
    ],
    base: Annotated[
        str, typer.Option(metavar="ID|DIR", help="The model it was trained on.", show_default=False)
    ],
    temperature: Annotated[
        float | None,
        typer.Option(help="Of the softmax. Default: 1.1 for zh_math and ru_math, else 1."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what --out already holds.")
    ] = False,
) -> None:
    """Import a published LoRA-Flow gate; serve it with `braid up --router DIR`."""
    from cluster.base_model.source import resolve_model
    from router_service.flow.gate_importer import check_import, import_gate

    folders = {path.resolve().name: path for path in adapters}
    check_import(out, adapters=folders, temperature=temperature, overwrite=overwrite)
    with console.fetch_bar() as report:
        location = resolve_model(base, cache_folder(Settings()), report)
    manifest = import_gate(
        gate,
        out,
        adapters=folders,
        base=location,
        temperature=temperature,
        overwrite=overwrite,
    )
    console.out.print(
        Text("imported ", style="bold green")
        + Text(
            f"{out}: {len(manifest.candidates)} adapters, "
            f"version {console.short_digest(manifest.version)}"
        )
    )
