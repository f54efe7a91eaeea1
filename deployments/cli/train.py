"""``braid train``."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.text import Text

from cluster.config import Settings, cache_folder
from cluster.errors import ConfigError
from deployments.cli import console
from deployments.cli.adapters import size

M = TypeVar("M", bound=BaseModel)

train_app = typer.Typer(no_args_is_help=True, help="Train an adapter or a router.")

OutOption = Annotated[
    Path,
    typer.Option("--out", metavar="DIR", help="Folder for the result.", show_default=False),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on from the checkpoint in --out, if there is one.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace what --out already holds.")
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads. Default: the library's choice.")
]
SeedOption = Annotated[
    int, typer.Option(help="The same seed, data and settings give the same result.")
]


@train_app.callback()
def _group() -> None:
    """Train an adapter or a router; an interrupted training goes on with --resume."""


@train_app.command("adapter")
def adapter(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="FILE",
            help='JSON lines of {"prompt": ..., "completion": ...}.',
            show_default=False,
        ),
    ],
    out: OutOption,
    base: Annotated[
        str | None,
        typer.Option(metavar="ID|DIR", help="Base model. Default: SmolLM2-135M-Instruct."),
    ] = None,
    description: Annotated[
        str | None, typer.Option(help="What the adapter can do, for people.")
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, max=256, help="Default: 8.")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Scaling is alpha / rank. Default: 16.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE",
            help="A linear module to adapt, such as q_proj; may be given again. "
            "Default: the four of attention.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Default: 120.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Default: 8.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. Default: 0.002.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=8, help="Longest example; longer is refused. Default: 512.")
    ] = None,
    dev_examples: Annotated[
        int | None,
        typer.Option(min=0, help="Examples held back for early stopping. Default: 24."),
    ] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Fine-tune one LoRA adapter and write it as a PEFT folder."""
    from router_service.training.adapter import train_adapter
    from router_service.training.config import AdapterTrainingConfig
    from router_service.training.run import TrainProgress

    config = checked(
        AdapterTrainingConfig,
        data=data,
        out=out,
        base=base,
        cache_dir=cache_folder(Settings()),
        description=description,
        rank=rank,
        alpha=alpha,
        target_modules=tuple(target) if target else None,
        steps=steps,
        batch_size=batch_size,
        learning_rate=lr,
        max_tokens=max_tokens,
        dev_examples=dev_examples,
        seed=seed,
        threads=threads,
        resume=resume,
        overwrite=overwrite,
    )
    dev = ""
    with console.counter() as report:

        def show(progress: TrainProgress) -> None:
            nonlocal dev
            if progress.dev_loss is not None:
                dev = f", dev {progress.dev_loss:.4f}"
            words = f"loss {progress.loss:.4f}{dev}, {progress.eta_s:.0f} s to go"
            report("training", words, progress.step, progress.total)

        done = train_adapter(
            config,
            show,
            fetch_progress=lambda what, n, total: report(what, "", n, total),
        )
    tail = "" if done.dev_loss is None else f", dev loss {done.dev_loss:.4f}"
    console.out.print(
        Text("trained ", style="bold green")
        + Text(
            f"{done.out}: {size(done.bytes)}, {done.steps} steps in {done.seconds:.0f} s on "
            f"{done.n_train} examples, kept step {done.best_step}{tail}"
        )
    )


@train_app.command("router")
def router(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="FILE|DIR",
            help='JSON lines of {"text": ..., "label": ADAPTER}, or a folder of ADAPTER.jsonl '
            'with {"prompt": ...}.',
            show_default=False,
        ),
    ],
    out: OutOption,
    held_out: Annotated[
        Path | None,
        typer.Option(metavar="FILE|DIR", help="Data that training never sees, to measure with."),
    ] = None,
    base_label: Annotated[
        str | None,
        typer.Option(help="Label of texts for the base model alone. Default: base."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most. Default: 4.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Default: 64.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. Default: 0.002.")] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Train a DLP router: a small network that chooses adapters from a prompt's text."""
    from router_service.training.router import train_router
    from router_service.training.router_config import RouterProgress, RouterTrainingConfig

    config = checked(
        RouterTrainingConfig,
        data=data,
        out=out,
        held_out=held_out,
        base_label=base_label,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=lr,
        seed=seed,
        threads=threads,
        resume=resume,
        overwrite=overwrite,
    )
    dev = ""
    with console.counter() as report:

        def show(progress: RouterProgress) -> None:
            nonlocal dev
            if progress.dev_loss is not None and progress.dev_accuracy is not None:
                dev = f", dev {progress.dev_loss:.4f} ({progress.dev_accuracy:.1%} right)"
            words = f"epoch {progress.epoch}, loss {progress.loss:.4f}{dev}"
            report("training", words, progress.step, progress.steps)

        done = train_router(config, show)
    console.out.print(
        Text("trained ", style="bold green")
        + Text(
            f"{done.path}: {len(done.candidates)} candidates, {done.parameters / 1e6:.1f} M "
            f"parameters, {done.steps} steps in {done.seconds:.0f} s, dev accuracy "
            f"{done.dev_accuracy:.1%}, {done.mean_fan_out:.2f} candidates kept per text"
        )
    )
    if done.held_out_accuracy is not None:
        console.out.print(f"held-out accuracy {done.held_out_accuracy:.1%}")
        for label, accuracy in done.held_out_by_label:
            console.out.print(f"  {label or '(base)':<16}{accuracy:.1%}", markup=False)


def checked(kind: type[M], **values: Any) -> M:
    """The settings; None is "not given", so that defaults stay in one place.

    Raises:
        ConfigError: a value that cannot be; the message names it.
    """
    try:
        return kind.model_validate({k: v for k, v in values.items() if v is not None})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}, not {item['input']!r}"
            for item in error.errors(include_url=False)
        )
        raise ConfigError(problems) from error
