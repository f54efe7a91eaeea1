"""``braid train``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from cluster.config import Settings, cache_folder
from deployments.cli import console, importing
from deployments.cli.learning import train_layer_routers
from deployments.cli.learning.train_common import (
    BaseOption,
    DataOption,
    DescriptionOption,
    LearningRateOption,
    MaxTokensOption,
    OutOption,
    OverwriteOption,
    RankOption,
    ResumeOption,
    SeedOption,
    ThreadsOption,
    checked,
    resumable,
    shown,
)

train_app = typer.Typer(no_args_is_help=True, help="Train an adapter or a router.")


@train_app.callback()
def _group() -> None:
    """Train an adapter or a router; an interrupted training goes on with --resume."""


@train_app.command("adapter")
def adapter(
    data: DataOption,
    out: OutOption,
    base: BaseOption = None,
    description: DescriptionOption = None,
    rank: RankOption = None,
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
    lr: LearningRateOption = None,
    max_tokens: MaxTokensOption = None,
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
    with importing():
        from training.adapter import train_adapter
        from training.config import AdapterTrainingConfig

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
    shown(train_adapter, config)


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
    follow_up_label: Annotated[
        str | None,
        typer.Option(
            help="Label of texts that go on with a conversation's turn before them, such as 'only "
            "the red ones'. Default: follow-up.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most. Default: 4.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Default: 64.")] = None,
    lr: LearningRateOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Train a DLP router: a small network that chooses adapters from a prompt's text."""
    with importing():
        from training.dlp.router_config import RouterProgress, RouterTrainingConfig
        from training.dlp.train_router import train_router

    config = checked(
        RouterTrainingConfig,
        data=data,
        out=out,
        held_out=held_out,
        base_label=base_label,
        follow_up_label=follow_up_label,
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

        with resumable(out):
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


train_app.command("gate")(train_layer_routers.gate)
train_app.command("milora")(train_layer_routers.milora)
