"""Settings in a gate's manifest; read without tensors."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from cluster.config import Section
from router_service.gate_temperature import GateTemperature

KIND = "flow"


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
