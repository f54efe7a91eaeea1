"""Settings of the trainings over a frozen base."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from cluster.base_model.source import QUICKSTART_MODEL

LinearModule = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ATTENTION_MODULES: tuple[LinearModule, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

Positive = Annotated[float, Field(gt=0, le=1e30)]
"""Within the range of fp32, with room to be multiplied."""
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
"""Seeds that torch takes."""

NOT_IN_FINGERPRINT = frozenset(
    {
        "data",
        "out",
        "base",
        "base_check",
        "cache_dir",
        "description",
        "checkpoint_every",
        "resume",
        "overwrite",
    }
)
"""Settings that do not change the result; data, base and adapters are named by digests."""


class TrainingConfig(BaseModel):
    """Settings of every training; an unknown key is an error.

    The same settings, data and base model give the same result, byte for byte, on one machine with
    one number of threads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    data: Path
    """JSONL of `{"prompt", "completion"}`."""
    out: Path
    """Folder for the result; its checkpoint is kept there too until the run ends."""
    base: str = QUICKSTART_MODEL
    """Hub id or local folder."""
    cache_dir: Path
    """Folder of fetched base models."""
    description: str = ""
    """Description of the result, for people and for the manifest."""

    batch_size: Annotated[int, Field(ge=1)] = 8
    learning_rate: Positive = 2e-3
    max_grad_norm: Positive = 1.0
    max_tokens: Annotated[int, Field(ge=8)] = 512
    """Longest prompt plus answer; a longer example is refused, not cut."""
    seed: Seed = 0

    dev_examples: Annotated[int, Field(ge=0)] = 24
    """Examples held back from the data for early stopping; 0 trains on everything."""
    eval_every: Annotated[int, Field(ge=1)] = 20
    """Steps between two measurements of the dev loss."""
    patience: Annotated[int, Field(ge=1)] = 3
    """Measurements without a lower dev loss before the run ends early."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 20
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 leaves the library's choice."""
    resume: bool = False
    """Continue from the checkpoint in `out`, if there is one."""
    overwrite: bool = False
    """Replace what is already in `out`."""


class AdapterTrainingConfig(TrainingConfig):
    """Settings of `train_adapter`."""

    rank: Annotated[int, Field(ge=1, le=256)] = 8
    alpha: Positive = 16.0
    target_modules: Annotated[tuple[LinearModule, ...], Field(min_length=1)] = ATTENTION_MODULES
    steps: Annotated[int, Field(ge=1)] = 120
    warmup_steps: Annotated[int, Field(ge=0)] = 8


class GateTrainingConfig(TrainingConfig):
    """Settings of `train_gate`. Defaults are LoRA-Flow's (arXiv 2402.11455) if it has one."""

    adapters: Annotated[tuple[Path, ...], Field(min_length=2)]
    """PEFT folders in the gate's order; aliases are the folders' names."""
    target: str | None = None
    """Alias of the adapter that the gate starts from, alone; unset: the last one."""
    temperature: Positive = 1.0
    epochs: Annotated[int, Field(ge=1)] = 5
    batch_size: Annotated[int, Field(ge=1)] = 4
    learning_rate: Positive = 5e-3
    """Measured at a width of 576, the quickstart's base; the paper has 1e-3 at 4096."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Of all steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    dev_examples: Annotated[int, Field(ge=0)] = 20
    base_check: Literal["digest", "name"] = "digest"
    """Check that an adapter is of this base, as in ``AdapterConfig``."""


class MiloraTrainingConfig(TrainingConfig):
    """Settings of `train_milora`. Defaults are MiLoRA's (arXiv 2410.18035) if a small model
    learns with them; its rank is 32 and its learning rate 1e-4, for 7 billion parameters."""

    alias: str | None = None
    """The adapter's name when it is served; unset: the name of `out`."""
    rank: Annotated[int, Field(ge=1, le=256)] = 8
    alpha: Positive | None = None
    """Scaling is alpha / rank; unset: 1, as in Eq. 1."""
    top_k: Annotated[int, Field(ge=1, le=7)] = 3
    """Modules of a layer that are active for a prompt."""
    pooling: Literal["self_attention", "mean", "last", "max"] = "self_attention"
    weighting: Literal["mask", "prob", "prob_renorm"] = "mask"
    """Weight of an active module: 1, its probability, or that divided by the active ones' sum."""
    normalise: bool = True
    """Divide rows by their root mean square before pooling; the paper says nothing of it. Without,
    large values of the first token saturate many layers' routers, which then learn nothing."""
    balance: Annotated[float, Field(ge=0)] = 1e-2
    """Lambda of the load-balance loss."""
    steps: Annotated[int, Field(ge=1)] = 80
    batch_size: Annotated[int, Field(ge=1)] = 8
    learning_rate: Positive = 2e-3
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.06
    """Of all steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    coefficient_learning_rate: Positive = 1e-6
    coefficient_every: Annotated[int, Field(ge=1)] = 8
    """Steps between two of the activation's coefficients, on dev data; 1 in the paper."""
    dev_examples: Annotated[int, Field(ge=1)] = 24
