"""Options, settings, progress and report of the commands that train."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.text import Text

from cluster.errors import ConfigError
from cluster.field_problems import all_problems
from deployments.cli.toolkit import console

if TYPE_CHECKING:
    from training.config import TrainingConfig
    from training.run import TrainProgress, TrainReport

M = TypeVar("M", bound=BaseModel)

DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="FILE",
        help='JSON lines of {"prompt": ..., "completion": ...}.',
        show_default=False,
    ),
]
OutOption = Annotated[
    Path,
    typer.Option("--out", metavar="DIR", help="Folder for the result.", show_default=False),
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Continue the interrupted training in --out, if there is one."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what --out holds.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads. Default: the library's choice.")
]
SeedOption = Annotated[
    int, typer.Option(help="The same seed, data and settings give the same result.")
]
BaseOption = Annotated[
    str | None,
    typer.Option("--base", metavar="ID|DIR", help="Base model. Default: SmolLM2-135M-Instruct."),
]
DescriptionOption = Annotated[str | None, typer.Option(help="What the adapter can do, for people.")]
RankOption = Annotated[int | None, typer.Option(min=1, max=256, help="Default: 8.")]
LearningRateOption = Annotated[
    float | None, typer.Option(help="Peak learning rate. Default: 0.002.")
]
MaxTokensOption = Annotated[
    int | None, typer.Option(min=8, help="Longest example; longer is refused. Default: 512.")
]


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Say how to continue if the training within is interrupted and has left a checkpoint."""
    from router_service.artifacts.outputs import CHECKPOINT_FILE

    try:
        yield
    except KeyboardInterrupt:
        if (out / CHECKPOINT_FILE).exists():
            console.note(
                f"{out} keeps the training so far; run the same command with --resume to continue"
            )
        raise


def shown(train: "Callable[..., TrainReport]", config: "TrainingConfig") -> None:
    """Run a training over a base model under a progress bar, and say what came of it."""
    dev = ""
    with console.counter() as report:

        def show(progress: "TrainProgress") -> None:
            nonlocal dev
            if progress.dev_loss is not None:
                dev = f", dev {progress.dev_loss:.4f}"
            words = f"loss {progress.loss:.4f}{dev}, {progress.eta_s:.0f} s to go"
            report("training", words, progress.step, progress.total)

        with resumable(config.out):
            done = train(
                config,
                show,
                fetch_progress=lambda what, n, total: report(what, "", n, total),
            )
    tail = "" if done.dev_loss is None else f", dev loss {done.dev_loss:.4f}"
    console.out.print(
        Text("trained ", style="bold green")
        + Text(
            f"{done.out}: {console.size(done.bytes)}, {done.steps} steps in "
            f"{done.seconds:.0f} s on {done.n_train} examples, kept step {done.best_step}{tail}"
        )
    )


def checked(kind: type[M], **values: Any) -> M:
    """Make the settings; None is "not given", so that defaults stay in one place.

    Raises:
        ConfigError: a value that cannot be; the message names it.
    """
    try:
        return kind.model_validate({k: v for k, v in values.items() if v is not None})
    except ValidationError as error:
        raise ConfigError(all_problems(error, with_input=True)) from error
