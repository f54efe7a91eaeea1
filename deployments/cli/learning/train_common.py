"""Settings, progress and report of the commands that train."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from rich.text import Text

from cluster.config import Settings, cache_folder
from cluster.errors import ConfigError
from cluster.field_problems import all_problems
from deployments.cli.learning.training_options import BaseModelOptions
from deployments.cli.toolkit import console

if TYPE_CHECKING:
    from training.config import TrainingConfig
    from training.run import TrainProgress, TrainReport

M = TypeVar("M", bound=BaseModel)


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


def train_over_base(
    train: "Callable[..., TrainReport]",
    kind: "type[TrainingConfig]",
    options: BaseModelOptions,
    **own: Any,
) -> None:
    """Run a training over a base model with the options of all such trainings and its own."""
    cache_dir = cache_folder(Settings())
    shown(train, checked(kind, **options.settings, cache_dir=cache_dir, **own))


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
