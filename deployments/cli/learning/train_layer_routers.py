"""``braid train gate`` and ``braid train milora``: weights that are decided inside the model."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.config import Settings, cache_folder
from deployments.cli import importing
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
    shown,
)
from deployments.local.quickstart import DEMO_ADAPTERS


def gate(
    data: DataOption,
    out: OutOption,
    adapters: Annotated[
        list[Path],
        typer.Option(
            "--adapter",
            metavar="DIR",
            help="PEFT folder of an adapter; give two or more, in order.",
            show_default=False,
        ),
    ],
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The adapter the gate starts from, alone. Default: the last."
        ),
    ] = None,
    base: BaseOption = None,
    description: Annotated[
        str | None, typer.Option(help="What the gate is for, for people.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the softmax. Default: 1.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most. Default: 5.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Default: 4.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. Default: 0.005.")] = None,
    max_tokens: MaxTokensOption = None,
    dev_examples: Annotated[
        int | None,
        typer.Option(min=0, help="Examples held back for early stopping. Default: 20."),
    ] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Train a LoRA-Flow gate that weighs adapters for every token; 200 examples are enough."""
    with importing():
        from training.config import GateTrainingConfig
        from training.flow.train_gate import train_gate

    config = checked(
        GateTrainingConfig,
        data=data,
        out=out,
        adapters=tuple(adapters),
        target=target,
        base=base,
        cache_dir=cache_folder(Settings()),
        description=description,
        temperature=temperature,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=lr,
        max_tokens=max_tokens,
        dev_examples=dev_examples,
        # The hub's copy of the quickstart's base and the wheel's, which was quantised, differ.
        base_check="name" if _of_demo(adapters) else "digest",
        seed=seed,
        threads=threads,
        resume=resume,
        overwrite=overwrite,
    )
    shown(train_gate, config)


def _of_demo(adapters: list[Path]) -> bool:
    """Whether all adapters are the demo's."""
    return all(path.resolve().parent == DEMO_ADAPTERS.resolve() for path in adapters)


def milora(
    data: DataOption,
    out: OutOption,
    base: BaseOption = None,
    description: DescriptionOption = None,
    alias: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The adapter's name. Default: the name of --out."),
    ] = None,
    rank: RankOption = None,
    alpha: Annotated[
        float | None, typer.Option(help="Scaling is alpha / rank. Default: the rank.")
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(min=1, max=7, help="Active modules in each layer. Default: 3."),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            metavar="HOW", help="self_attention, mean, last or max. Default: self_attention."
        ),
    ] = None,
    weighting: Annotated[
        str | None,
        typer.Option(metavar="HOW", help="mask, prob or prob_renorm. Default: mask."),
    ] = None,
    normalise: Annotated[
        bool | None,
        typer.Option(
            "--normalise/--no-normalise",
            help="Divide rows by their root mean square before pooling. Default: yes.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Default: 80.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Default: 8.")] = None,
    lr: LearningRateOption = None,
    max_tokens: MaxTokensOption = None,
    dev_examples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Examples held back for early stopping and the activation. Default: 24.",
        ),
    ] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Train a MiLoRA adapter: its modules are chosen for each prompt, once, layer by layer."""
    with importing():
        from training.config import MiloraTrainingConfig
        from training.milora.train_milora import train_milora

    config = checked(
        MiloraTrainingConfig,
        data=data,
        out=out,
        base=base,
        cache_dir=cache_folder(Settings()),
        description=description,
        alias=alias,
        rank=rank,
        alpha=alpha,
        top_k=top_k,
        pooling=pooling,
        weighting=weighting,
        normalise=normalise,
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
    shown(train_milora, config)
