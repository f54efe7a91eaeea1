"""Settings in a gate's manifest; read without tensors."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from cluster.config import Section

KIND = "flow"

LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-6, 1e6
GateTemperature = Annotated[float, Field(ge=LEAST_TEMPERATURE, le=MOST_TEMPERATURE)]
"""Divides logits; beyond these bounds the quotients leave what half precision holds."""


class FlowHyperparameters(Section):
    """Settings that turn the tensors into weights. The manifest's candidates are the adapters, in
    order."""

    model_config = ConfigDict(allow_inf_nan=False)

    temperature: GateTemperature = 1.0
    layers: Annotated[int, Field(ge=1)]
    """Decoder layers of the base."""
    hidden_size: Annotated[int, Field(ge=1)]
    training: dict[str, Any] = Field(default_factory=dict)
    """Description of the gate's making, for people."""
