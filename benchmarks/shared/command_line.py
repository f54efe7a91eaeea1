"""Make a command of a function, as `braid`'s own are made."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import typer

from deployments.cli.command_line import BraidGroup

PLACES = ("--out", "--state")
"""Options that name folders of this machine."""


class _OneCommand(BraidGroup):
    """Groups nothing: the usage line promises no commands."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return super().collect_usage_pieces(ctx)[:1]


def command_app(name: str, function: Callable[..., None]) -> typer.Typer:
    """Make an app whose only command is `function`.

    An error made on purpose becomes one message and status 1, as in `braid`.
    """
    app = typer.Typer(
        name=name,
        cls=_OneCommand,
        invoke_without_command=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        add_completion=False,
    )
    app.callback(help=function.__doc__)(function)
    return app


def without_places(arguments: Sequence[str]) -> Iterator[str]:
    """Drop the folders of this machine from a command line."""
    rest = iter(arguments)
    for argument in rest:
        if argument in PLACES:
            next(rest, None)
        elif not argument.startswith(tuple(f"{place}=" for place in PLACES)):
            yield argument
