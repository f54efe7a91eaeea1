"""``braid adapters merge``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from deployments.cli.toolkit import console
from deployments.cli.toolkit.mixture_text import adapter_folders, parse_mixture
from deployments.cli.toolkit.options import AdaptersOption
from deployments.local.quickstart import DEMO_ADAPTERS


class MergeMethod(StrEnum):
    """Choices of ``--method``."""

    CAT = "cat"
    LINEAR = "linear"
    FACTORS = "factors"


def merge(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder for the merge.", show_default=False)
    ],
    mixture: Annotated[
        str,
        typer.Option(metavar="A=W,B=W", help="Adapters and weights.", show_default=False),
    ],
    method: Annotated[
        MergeMethod,
        typer.Option(
            help="cat is the mixture exactly, its rank the sum of ranks; linear and factors add "
            "the factors, which is another adapter."
        ),
    ] = MergeMethod.CAT,
    adapters: AdaptersOption = DEMO_ADAPTERS,
    description: Annotated[str, typer.Option(help="What the merge can do, for people.")] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what OUT already holds.")
    ] = False,
) -> None:
    """Merge adapters into one, written as a normal PEFT folder."""
    weights = parse_mixture(mixture)
    folders = adapter_folders(adapters, tuple(weights))

    from router_service.artifacts.outputs import claim_folder
    from router_service.merging.merge import read_adapter
    from training.merging.merged_adapter import export_merge

    claim_folder(out, overwrite=overwrite)
    nbytes = export_merge(
        out,
        {name: read_adapter(folder) for name, folder in folders.items()},
        weights,
        method.value,
        description=description,
        overwrite=overwrite,
    )
    console.out.print(
        Text("merged ", style="bold green")
        + Text(f"{out}: {len(weights)} adapters by {method.value}, {console.size(nbytes)}")
    )
