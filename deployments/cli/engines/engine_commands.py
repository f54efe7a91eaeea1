"""``braid engine``."""

from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from cluster.config import Settings, engines_folder
from cluster.nvidia import has_nvidia_device
from deployments.cli.toolkit import console
from deployments.engines.vllm_environment import CPU, CUDA, INSTALL, NAME, find

engine_app = typer.Typer(no_args_is_help=True, help="Engines that compute the answers.")


class Installable(StrEnum):
    """Engines that are installed apart from Braid."""

    VLLM = "vllm"


class InstallDevice(StrEnum):
    """Machines that an engine may be installed for."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@engine_app.callback()
def _group() -> None:
    """Install engines, and see which are there."""


@engine_app.command("install")
def install(
    name: Annotated[Installable, typer.Argument(help="The engine to install.", show_default=False)],
    device: Annotated[
        InstallDevice,
        typer.Option(help="What it is to compute on. auto: an NVIDIA GPU if there is one."),
    ] = InstallDevice.AUTO,
) -> None:
    """Install an engine into an environment of its own (BRAID_ENGINES_DIR), at tested versions.

    One that is there and whole is left as it is. Stop a cluster that uses it first.
    """
    from deployments.engines.vllm_install import install as make

    cuda = device is InstallDevice.CUDA or (device is InstallDevice.AUTO and has_nvidia_device())
    root = engines_folder(Settings())
    with console.spinner("looking") as say:
        stamp, changed = make(root, CUDA if cuda else CPU, say)
    words = "installed" if changed else "there already"
    console.out.print(
        Text("ready ", style="bold green")
        + Text(f"{name.value} {stamp.vllm} for {stamp.device}, torch {stamp.torch}: {words}"),
        soft_wrap=True,
    )
    if not stamp.plugin:
        console.note("this installation of Braid has no plugin for it: no adapters can be served")
    console.plain(f"at    {root / name.value}")
    console.plain(f"next  braid up --engine {name.value} --model ID_OR_FOLDER")


@engine_app.command("list")
def list_engines() -> None:
    """List the engines that `braid up --engine` takes, and what there is of each."""
    root = engines_folder(Settings())
    stamp, current = find(root)
    if stamp is None:
        found = f"not installed; `{INSTALL}` does it"
    else:
        found = f"{stamp.vllm} for {stamp.device} at {root / NAME}"
        if not current:
            found += f"; it is another Braid's, `{INSTALL}` brings it up to date"
    console.plain("braid   a part of this installation")
    console.plain(f"{NAME:<8}{found}")
