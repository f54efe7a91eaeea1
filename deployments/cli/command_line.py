"""All commands together, and what every one of them does with an error."""

import errno
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from cluster.errors import BraidError
from deployments.cli import chat
from deployments.cli.adapters.adapter_commands import adapters_app
from deployments.cli.cluster import doctor, down, logs, status, up
from deployments.cli.cluster.model import model_app
from deployments.cli.cluster.tenants import tenants_app
from deployments.cli.engines.engine_commands import engine_app
from deployments.cli.learning import evaluate
from deployments.cli.learning.mixture_commands import mixture_app
from deployments.cli.learning.train import train_app
from deployments.cli.policies.placement_commands import placement_app
from deployments.cli.policies.policy_commands import policy_app
from deployments.cli.profiling.profile_commands import bench_app
from deployments.cli.routers import route
from deployments.cli.routers.router_commands import router_app
from deployments.cli.simulation import simulate
from deployments.cli.toolkit import console
from deployments.cli.toolkit.interruption import INTERRUPTED
from deployments.cli.toolkit.options import JSON_WANTED
from deployments.cli.toolkit.refusal import error_body

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
"""Of an open file, for the most part standard output, that takes no more."""


class BraidGroup(TyperGroup):
    """An error made on purpose becomes one message and status 1; Ctrl-C is quiet.

    With --json the error is on stdout as well, as JSON. Where stdout cannot be written, that is
    the error.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.filename is not None or error.errno not in UNWRITABLE:
                raise
            _drop_output()
            console.show_error(BraidError(f"output cannot be written: {error.strerror}"))
            raise SystemExit(1) from error

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BraidError as error:
            if ctx.meta.get(JSON_WANTED):
                console.print_json(error_body(error))
            console.show_error(error)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            console.err.print("interrupted")
            raise typer.Exit(INTERRUPTED) from error


def _drop_output() -> None:
    """Forget what stdout holds and cannot write: else it is tried once more at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


app = typer.Typer(
    name="braid",
    cls=BraidGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Serve one base model and many LoRA adapters, blended per prompt, to many tenants.",
    epilog="Start with `braid up`, then `braid chat`.",
)

RUN = "Run a cluster on this machine"
app.command(rich_help_panel=RUN)(up.up)
app.command(rich_help_panel=RUN)(down.down)
app.command(rich_help_panel=RUN)(status.status)
app.command(rich_help_panel=RUN)(logs.logs)
app.command(rich_help_panel=RUN)(doctor.doctor)
app.add_typer(engine_app, name="engine", rich_help_panel=RUN)
app.add_typer(bench_app, name="bench", rich_help_panel=RUN)
app.add_typer(policy_app, name="policy", rich_help_panel=RUN)
policy_app.command()(simulate.simulate)
app.add_typer(placement_app, name="placement", rich_help_panel=RUN)
app.command(rich_help_panel=RUN)(simulate.simulate)

USE = "Use it"
app.command(rich_help_panel=USE)(chat.chat)
app.command(rich_help_panel=USE)(route.route)
app.add_typer(adapters_app, name="adapters", rich_help_panel=USE)
app.add_typer(tenants_app, name="tenants", rich_help_panel=USE)

MAKE = "Models, adapters, routers"
app.add_typer(model_app, name="model", rich_help_panel=MAKE)
app.add_typer(train_app, name="train", rich_help_panel=MAKE)
app.command("eval", rich_help_panel=MAKE)(evaluate.evaluate)
app.add_typer(router_app, name="router", rich_help_panel=MAKE)
app.add_typer(mixture_app, name="mixture", rich_help_panel=MAKE)
