"""A measured cost model, kept in a file: the prior of the fit for one model, engine and device."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from cluster.config import AdapterConfig, EngineConfig, Section
from cluster.errors import ConfigError
from cluster.field_problems import all_problems
from cluster.placement.cost.model import CostModel, LoadCost, StepCost
from cluster.regular_file import read_regular

REMEDY = "measure this one with `braid bench profile`, or leave controller.cost_profile out"

Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StepProfile(Section):
    """Coefficients of a step, as those of ``StepCost``."""

    per_step: Seconds
    per_prefill_token: Seconds
    per_decode_row: Seconds
    per_context_block: Seconds
    per_adapter_byte: Seconds
    per_rank_row: Seconds


class LoadProfile(Section):
    """Coefficients of a load from one tier, as those of ``LoadCost``."""

    latency: Seconds
    per_byte: Seconds


class CostProfile(Section):
    """What `braid bench profile` writes."""

    version: Literal[1] = 1
    model: str
    """Name of the base model, for people."""
    model_digest: Digest
    engine_digest: Digest
    device: str
    step: StepProfile
    host_load: LoadProfile
    disk_load: LoadProfile
    start_s: Seconds
    r2: Annotated[float, Field(ge=0, le=1)]
    """How well the steps' coefficients explain the steps that were measured."""
    observed_s: Seconds
    """Time of those steps."""

    @property
    def costs(self) -> CostModel:
        """The costs, as a prior."""
        return CostModel(
            step=StepCost(**self.step.model_dump()),
            host_load=LoadCost(**self.host_load.model_dump()),
            disk_load=LoadCost(**self.disk_load.model_dump()),
            start_s=self.start_s,
        )

    def check_engine(self, model_digest: str, engine_digest: str, source: str) -> None:
        """Refuse a profile of another model or engine.

        Args:
            source: where the profile is from, for the message.

        Raises:
            ConfigError: the digests differ.
        """
        if self.model_digest != model_digest:
            raise ConfigError(
                f"{source}: model_digest: the profile is of {self.model} "
                f"({self.model_digest[:12]}), the cluster's base model is {model_digest[:12]}; "
                f"{REMEDY}"
            )
        if self.engine_digest != engine_digest:
            raise ConfigError(
                f"{source}: engine_digest: the profile was measured with other engine settings "
                f"({', '.join((*ENGINE_FIELDS, *ADAPTER_FIELDS))} count); {REMEDY}"
            )

    def check_device(self, device: str, source: str) -> None:
        """Refuse a profile of another device.

        Raises:
            ConfigError: the names differ.
        """
        if self.device != device:
            raise ConfigError(
                f"{source}: device: the profile is of {self.device!r}, the replicas run on "
                f"{device!r}; {REMEDY}"
            )


ENGINE_FIELDS = ("dtype", "quantize", "device", "threads", "block_size", "cuda_graphs")
ADAPTER_FIELDS = ("dtype",)


def engine_digest(engine: EngineConfig, adapters: AdapterConfig) -> str:
    """Return the sha256 (hex) of the settings that the costs of a step depend on."""
    settings = {
        "engine": engine.model_dump(mode="json", include=set(ENGINE_FIELDS)),
        "adapters": adapters.model_dump(mode="json", include=set(ADAPTER_FIELDS)),
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def read_profile(path: Path) -> CostProfile:
    """Read a profile.

    Raises:
        ConfigError: it cannot be read, or an entry is missing, unknown or wrong; with its path.
    """
    return parse_profile(read_regular(path), str(path))


def parse_profile(content: bytes, source: str) -> CostProfile:
    """Parse a profile; ``source`` names it in messages.

    Raises:
        ConfigError: as ``read_profile``.
    """
    try:
        return CostProfile.model_validate_json(content)
    except ValidationError as error:
        raise ConfigError(
            f"{source}: {all_problems(error, root='profile')}; "
            "write a new one with `braid bench profile`"
        ) from error


def write_profile(profile: CostProfile, path: Path) -> None:
    """Write a profile, as people can read it.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.write_text(profile.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
