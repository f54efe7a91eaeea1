"""Settings in the manifest of a DLP router; read without tensors."""

from typing import Annotated, Literal

from pydantic import Field

from cluster.config import Section
from router_service.dlp.mini_mlp import NetworkConfig
from router_service.routers.features import FeatureConfig
from router_service.routers.selection import SelectionConfig
from router_service.routers.text_policy import TextPolicy

KIND = "dlp"


class DlpHyperparameters(Section):
    """Settings that turn the tensors of a mini-MLP and a text into an answer."""

    architecture: Literal["mini_mlp"] = "mini_mlp"
    features: FeatureConfig = FeatureConfig()
    network: NetworkConfig = NetworkConfig()
    selection: SelectionConfig = SelectionConfig()
    text: TextPolicy = TextPolicy()
    follow_ups: bool = False
    """If true, the first output, before the candidates', says that a text continues the turn before
    it."""

    def outputs(self, candidates: int) -> int:
        """Count the outputs of a network with as many candidates."""
        return candidates + self.follow_ups


class EncoderHyperparameters(Section):
    """The same settings for an artifact whose classifier is a Hugging Face encoder."""

    architecture: Literal["encoder"] = "encoder"
    max_tokens: Annotated[int, Field(ge=3)] = 256
    """Longer texts keep their last tokens, behind a new CLS."""
    files: dict[str, str]
    """sha256 of the encoder's configuration and of each tokenizer file, by name."""
    selection: SelectionConfig = SelectionConfig()
    text: TextPolicy = TextPolicy()
