"""Settings and results of one router training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from cluster.config import Section
from router_service.dlp.dlp_schema import DlpHyperparameters
from training.config import Positive, Seed

Share = Annotated[float, Field(ge=0, lt=1)]


class RouterTrainingConfig(Section):
    """Settings of `train_router`; an unknown key is an error.

    The same settings and data give the same router, byte for byte, on one machine with one number
    of threads.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    data: Path
    """JSONL of {"text", "label"}, or a folder of <alias>.jsonl with {"prompt"}."""
    out: Path
    """Folder for the router; its checkpoint is kept there too until the run ends."""
    held_out: Path | None = None
    """Data in either form that training never sees, to measure the finished router."""
    base_label: str | None = "base"
    """Label or file name whose texts the base model answers by itself; unset: there is none. One
    that is given must be in the data."""
    follow_up_label: str | None = "follow-up"
    """Label or file name of texts that continue a conversation's turn before them, of any skill;
    unset, or not in the data: the router does not learn to recognise them."""
    hyperparameters: DlpHyperparameters = DlpHyperparameters()

    epochs: Annotated[int, Field(ge=1)] = 4
    """Passes over the data at most."""
    patience: Annotated[int, Field(ge=1)] = 2
    """Epochs without a lower dev loss before the run ends early."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    learning_rate: Positive = 2e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    label_smoothing: Share = 0.02
    dev_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Of each class, held back to decide when to stop."""

    word_dropout: Share = 0.3
    """Each text loses words at a rate drawn between 0 and this."""
    word_noise: Share = 0.15
    """Each text has words replaced by made-up ones at a rate drawn between 0 and this."""
    background_share: Share = 0.08
    """Made-up texts per text, labelled base: unknown words must not choose an adapter."""
    blend_share: Share = 0.1
    """Joined texts of two adapters per text, labelled half and half, so that a prompt with two
    tasks gets both adapters."""

    seed: Seed = 0
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 leaves the library's choice."""
    resume: bool = False
    """Continue from the checkpoint in `out`, if there is one."""
    overwrite: bool = False
    """Replace a router that is already in `out`."""


@dataclass(frozen=True, slots=True)
class RouterProgress:
    """One step of a run."""

    step: int  # steps done
    steps: int  # steps at most
    epoch: int  # the epoch that this step belongs to, from 1
    loss: float
    dev_loss: float | None = None  # after the last step of an epoch
    dev_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class RouterTrainReport:
    """Results of a run."""

    path: Path
    version: str
    candidates: tuple[str, ...]
    parameters: int
    train_examples: int
    dev_examples: int
    steps: int
    best_step: int
    dev_accuracy: float
    held_out_accuracy: float | None  # likeliest candidate is the label's
    held_out_by_label: tuple[tuple[str, float], ...]
    mean_fan_out: float  # candidates kept per text, over held-out (else dev) texts
    seconds: float
