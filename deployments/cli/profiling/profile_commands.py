"""``braid bench``."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table

from cluster.config import AppConfig, Settings, cache_folder
from cluster.errors import ConfigError
from cluster.field_problems import all_problems
from deployments.cli.toolkit import console
from deployments.local.lifecycle import default_threads

bench_app = typer.Typer(no_args_is_help=True, help="Measure this machine.")


@bench_app.callback()
def _group() -> None:
    """Measure this machine."""


@bench_app.command("profile")
def profile(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Write the profile there (JSON).")],
    app: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Take model, engine and adapters from an overlay's app.yaml; the options below "
            "then count for nothing.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="ID|DIR", help="Base model: hub id or folder.")
    ] = AppConfig().model,
    replicas: Annotated[
        int, typer.Option(min=1, help="Share the machine's cores among so many, as `braid up`.")
    ] = 2,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. Default: the cores shared out.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="float32|bfloat16|float16", help="As for `braid up`.")
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(metavar="none|int8", help="As for `braid up`.")
    ] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Adapters at once. Default: 16.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Half a minute in place of two; less exact.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of prompts, adapters and order.")] = 0,
) -> None:
    """Measure what steps, loads and a start cost here, for `controller.cost_profile`.

    Use an idle machine. The profile is of one model, the engine's settings and this device; a
    cluster with others refuses it.
    """
    if out.is_dir() or not out.resolve().parent.is_dir():
        raise ConfigError(f"--out {out}: expected a file in a folder that exists")
    config = (
        _overlay(app)
        if app is not None
        else _config(
            model,
            {
                "threads": default_threads(replicas) if threads is None else threads,
                "dtype": dtype,
                "quantize": quantize,
            },
            {"slots": slots},
        )
    )
    from cluster.base_model.source import resolve_model
    from cluster.placement.cost.profile import write_profile
    from deployments.cli.profiling.profile_run import measure_profile

    with console.fetch_bar() as fetched:
        location = resolve_model(
            config.model, config.cache_dir or cache_folder(Settings()), fetched
        )
    with console.counter(transient=True) as report:
        found = measure_profile(location, config, quick=quick, seed=seed, report=report)
    write_profile(found, out)
    table = Table("cost", "seconds", box=None, padding=(0, 2, 0, 0), header_style="dim")
    costs = {"step": found.step, "load from host memory": found.host_load}
    for name, part in (costs | {"load from disk": found.disk_load}).items():
        for entry, value in part.model_dump().items():
            table.add_row(f"{name}, {entry.replace('_', ' ')}", f"{value:.3g}")
    table.add_row("start", f"{found.start_s:.1f}")
    console.out.print(table)
    console.plain(
        f"wrote {out}: {found.device}; R2 {found.r2:.3f} over {found.observed_s:.0f} s of steps"
    )


def _overlay(path: Path) -> AppConfig:
    from deployments.serve_config import load_overlay_config

    return load_overlay_config(path).app


def _config(model: str, engine: dict[str, Any], adapters: dict[str, Any]) -> AppConfig:
    given = {
        name: {key: value for key, value in section.items() if value is not None}
        for name, section in (("engine", engine), ("adapters", adapters))
    }
    try:
        return AppConfig.model_validate({"model": model, **given})
    except ValidationError as error:
        raise ConfigError(all_problems(error)) from error
