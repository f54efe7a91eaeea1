"""``braid mixture``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from cluster.config import Settings, cache_folder
from cluster.errors import ConfigError
from deployments.cli import console
from deployments.cli.adapters.merge import AdaptersOption
from deployments.cli.learning.mixture import adapter_folders, parse_mixture, parse_names
from deployments.cli.learning.train_common import (
    OutOption,
    OverwriteOption,
    SeedOption,
    ThreadsOption,
    checked,
)
from deployments.local.quickstart import DEMO_ADAPTERS

mixture_app = typer.Typer(no_args_is_help=True, help="Make static mixtures.")


class Space(StrEnum):
    """What ``--space`` takes."""

    OUTPUTS = "outputs"
    FACTORS = "factors"


@mixture_app.callback()
def _group() -> None:
    """Make static mixtures: fixed, averaged, or searched from a few examples."""


@mixture_app.command("save")
def save(
    out: OutOption,
    mixture: Annotated[
        str | None, typer.Option(metavar="A=W,B=W", help="Adapters and weights.")
    ] = None,
    average: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Adapters, all with one weight.")
    ] = None,
    adapters: AdaptersOption = DEMO_ADAPTERS,
    overwrite: OverwriteOption = False,
) -> None:
    """Save a mixture as a router; serve it with `braid up --router NAME=DIR`, ask for auto:NAME."""
    if (mixture is None) == (average is None):
        raise ConfigError("give either --mixture or --average")
    if mixture is not None:
        weights = parse_mixture(mixture)
    else:
        assert average is not None
        names = parse_names(average, "--average")
        weights = {name: 1 / len(names) for name in names}
    folders = adapter_folders(adapters, tuple(weights))

    from router_service.outputs import claim_folder
    from router_service.routers.static import save_static

    claim_folder(out, overwrite=overwrite, reads=folders.values())
    manifest = save_static(
        out, weights, method="explicit" if mixture else "average", overwrite=overwrite
    )
    console.out.print(
        Text("saved ", style="bold green")
        + Text(f"{out}: {len(weights)} adapters, version {manifest.version[:12]}")
    )


@mixture_app.command("search")
def search(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="FILE",
            help='JSON lines of {"prompt": ..., "completion": ...}.',
            show_default=False,
        ),
    ],
    names: Annotated[
        str,
        typer.Option(metavar="A,B,...", help="Adapters to weigh.", show_default=False),
    ],
    out: OutOption,
    adapters: AdaptersOption = DEMO_ADAPTERS,
    base: Annotated[
        str | None,
        typer.Option(metavar="ID|DIR", help="Base model. Default: SmolLM2-135M-Instruct."),
    ] = None,
    space: Annotated[
        Space,
        typer.Option(
            help="outputs: weights of a mixture, written as a router. factors: LoraHub's sums of "
            "the factors, written as a new adapter."
        ),
    ] = Space.OUTPUTS,
    steps: Annotated[int | None, typer.Option(min=1, help="Evaluations. Default: 40.")] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Drawn from the data. Default: 16.")
    ] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Search the weights of a mixture on a few examples, without gradients."""
    folders = adapter_folders(adapters, parse_names(names, "--names"))

    from training.merging.search import SearchConfig, SearchProgress
    from training.merging.search_run import MixtureSearchConfig, search_mixture

    config = checked(
        MixtureSearchConfig,
        data=data,
        adapters=tuple(folders.values()),
        out=out,
        base=base,
        cache_dir=cache_folder(Settings()),
        space=space.value,
        examples=examples,
        search=checked(SearchConfig, steps=steps, seed=seed),
        # The hub's copy of the quickstart's base and the wheel's, which was quantised, differ.
        base_check="name" if adapters == DEMO_ADAPTERS else "digest",
        threads=threads,
        overwrite=overwrite,
    )
    with console.counter() as report:

        def show(at: SearchProgress) -> None:
            words = " ".join(f"{n}={w:g}" for n, w in zip(folders, at.weights, strict=True))
            report("searching", f"loss {at.loss:.4f}, {words}", at.step, at.steps)

        done = search_mixture(config, show)
    console.out.print(
        console.mixture_table(
            [{"name": name, "weight": weight} for name, weight in done.weights.items()]
        )
    )
    console.out.print(
        Text("saved ", style="bold green")
        + Text(
            f"{done.out}: loss {done.loss:.4f} nats a token; the base alone {done.base_loss:.4f}, "
            f"the average {done.average_loss:.4f}"
        )
    )
