"""Options that several commands of training have, and how a command takes them all at once."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

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


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of every training."""

    out: OutOption
    seed: SeedOption = 0
    threads: ThreadsOption = None
    resume: ResumeOption = False
    overwrite: OverwriteOption = False

    @property
    def settings(self) -> dict[str, Any]:
        """Values by the names of the training's settings."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass(frozen=True, kw_only=True)
class BaseModelOptions(RunOptions):
    """Options of every training over a frozen base model."""

    data: DataOption
    base: BaseOption = None
    max_tokens: MaxTokensOption = None


def with_options(options: type[RunOptions]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of ``options`` as options of its own.

    The command gets them as one value, its first argument. In its help, required options come first
    and shared ones with a default last.
    """
    shared = inspect.signature(options).parameters

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(command).parameters.values()

        @functools.wraps(command)
        def run(**given: Any) -> None:
            command(options(**{name: given.pop(name) for name in shared}), **given)

        required = [one for one in shared.values() if one.default is inspect.Parameter.empty]
        optional = [one for one in shared.values() if one.default is not inspect.Parameter.empty]
        taken = [
            one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*required, *own, *optional)
        ]
        run.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined] # read by typer
        run.__annotations__ = {one.name: one.annotation for one in taken}
        return run

    return decorate
