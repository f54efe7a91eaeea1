"""Settings of one adapter training."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from cluster.engine.model_source import QUICKSTART_MODEL

LinearModule = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ATTENTION_MODULES: tuple[LinearModule, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")


class AdapterTrainingConfig(BaseModel):
    """What `train_adapter` needs; an unknown key is an error.

    The same settings, data and base model give the same adapter, byte for byte, on one machine with
    one number of threads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path
    """JSONL of `{"prompt", "completion"}`."""
    out: Path
    """Folder for the adapter; its checkpoint is kept there too until the run ends."""
    base: str = QUICKSTART_MODEL
    """Hub id or local folder."""
    cache_dir: Path
    """Where fetched base models are kept."""
    description: str = ""
    """What the adapter can do, for people and for the manifest."""

    rank: Annotated[int, Field(ge=1, le=256)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    target_modules: Annotated[tuple[LinearModule, ...], Field(min_length=1)] = ATTENTION_MODULES

    steps: Annotated[int, Field(ge=1)] = 120
    batch_size: Annotated[int, Field(ge=1)] = 8
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 8
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    max_tokens: Annotated[int, Field(ge=8)] = 512
    """Longest prompt plus answer; a longer example is refused, not cut."""
    seed: int = 0

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
    """Go on from the checkpoint in `out`, if there is one."""
    overwrite: bool = False
    """Replace an adapter that is already in `out`."""
