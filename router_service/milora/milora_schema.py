"""Settings in the manifest of an adapter's routers; read without tensors."""

from typing import Annotated, Any, Literal

from pydantic import Field

from cluster.config import Section

KIND = "milora"
NUM_MODULES = 7

Pooling = Literal["self_attention", "mean", "last", "max"]
Weighting = Literal["mask", "prob", "prob_renorm"]


class MiloraHyperparameters(Section):
    """Settings that turn the tensors into weights. The manifest's one candidate is the adapter."""

    top_k: Annotated[int, Field(ge=1, le=NUM_MODULES)]
    pooling: Pooling = "self_attention"
    weighting: Weighting = "mask"
    normalise: bool = False
    """Rows have a root mean square of 1 when they are pooled."""
    layers: Annotated[int, Field(ge=1)]
    """Decoder layers of the base."""
    hidden_size: Annotated[int, Field(ge=1)]
    training: dict[str, Any] = Field(default_factory=dict)
    """Description of the making of adapter and routers, for people."""
