"""DLP-LoRA's classifier as its authors published it: an encoder, LayerNorm and one linear map.

``u = W LayerNorm(h_CLS) + b``, with h_CLS the encoder's last hidden state at the first position.
The encoder is a Hugging Face ALBERT or RoBERTa. Its configuration and tokenizer are next to the
tensors, in ``encoder/``, and their digests are part of the artifact.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from cluster.errors import ConfigError
from router_service.artifacts.router_artifact import Tensors, check_tensors
from router_service.dlp.dlp_schema import EncoderHyperparameters

ENCODER_FOLDER = "encoder"
CONFIG_FILE = "config.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt", "spiece.model",
)  # fmt: skip
FAMILIES = ("albert", "roberta")

_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError)


class EncoderClassifier:
    """One text at a time, in fp32 on the CPU."""

    def __init__(
        self,
        encoder: torch.nn.Module,
        tokenizer: Any,
        norm: torch.nn.LayerNorm,
        linear: torch.nn.Linear,
        max_tokens: int,
    ) -> None:
        self._encoder = encoder.eval()
        self._tokenizer = tokenizer
        self._norm = norm
        self._linear = linear
        self._max_tokens = max_tokens

    def token_ids(self, text: str) -> list[int]:
        """Encode CLS, the text's tokens, SEP; a long text keeps its last tokens, so that CLS
        always leads."""
        ids = self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)
        kept: list[int] = ids["input_ids"][-(self._max_tokens - 2) :]
        return [self._tokenizer.cls_token_id, *kept, self._tokenizer.sep_token_id]

    @torch.inference_mode()
    def logits(self, text: str) -> Sequence[float]:
        """Compute u [N] of a text."""
        ids = torch.tensor([self.token_ids(text)])
        states = self._encoder(input_ids=ids).last_hidden_state  # [1, T, H]
        u: list[float] = self._linear(self._norm(states[0, 0])).tolist()
        return u


def load_encoder(
    path: Path, tensors: Tensors, hyperparameters: EncoderHyperparameters, candidates: int
) -> EncoderClassifier:
    """Load the classifier of an artifact whose tensors have been read.

    Raises:
        ConfigError: a file of ``encoder/`` is missing or changed, or a tensor does not fit.
    """
    folder = path / ENCODER_FOLDER
    found = digest_files(folder, hyperparameters.files)
    for name, digest in hyperparameters.files.items():
        if found[name] != digest:
            raise ConfigError(f"{folder / name}: was changed after the router was imported")
    config = read_encoder_config(folder)
    check_max_tokens(folder, config, hyperparameters.max_tokens)
    encoder = empty_encoder(folder, config)
    check_tensors(path, tensors, tensor_shapes(encoder, config.hidden_size, candidates))
    norm = torch.nn.LayerNorm(config.hidden_size)
    linear = torch.nn.Linear(config.hidden_size, candidates)
    for prefix, module in (("encoder", encoder), ("norm", norm), ("linear", linear)):
        module.load_state_dict(
            {
                name.removeprefix(f"{prefix}."): torch.tensor(tensor, dtype=torch.float32)
                for name, tensor in tensors.items()
                if name.startswith(f"{prefix}.")
            }
        )
    tokenizer = read_tokenizer(folder)
    return EncoderClassifier(encoder, tokenizer, norm, linear, hyperparameters.max_tokens)


def tensor_shapes(
    encoder: torch.nn.Module, width: int, candidates: int
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the artifact."""
    shapes = {f"encoder.{name}": tuple(t.shape) for name, t in encoder.state_dict().items()}
    return shapes | {
        "norm.weight": (width,),
        "norm.bias": (width,),
        "linear.weight": (candidates, width),
        "linear.bias": (candidates,),
    }


def read_encoder_config(folder: Path) -> Any:
    """Read the encoder's configuration.

    Raises:
        ConfigError: unreadable, or of a family that is not one of ``FAMILIES``.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except _LOADING_ERRORS as error:
        raise ConfigError(f"{folder / CONFIG_FILE}: cannot be used: {error}") from error
    if config.model_type not in FAMILIES:
        raise ConfigError(
            f"{folder / CONFIG_FILE}: model_type is {config.model_type!r}; "
            f"there are: {', '.join(FAMILIES)}"
        )
    return config


def check_max_tokens(folder: Path, config: Any, max_tokens: int) -> None:
    """Raise ConfigError where the encoder has fewer positions."""
    offset = config.pad_token_id + 1 if config.model_type == "roberta" else 0
    limit = config.max_position_embeddings - offset
    if max_tokens > limit:
        raise ConfigError(f"{folder}: max_tokens is {max_tokens}, but there are {limit} positions")


def empty_encoder(folder: Path, config: Any) -> torch.nn.Module:
    """Build the encoder without its pooling layer; its weights are still to be loaded."""
    try:
        encoder: torch.nn.Module = transformers.AutoModel.from_config(  # type: ignore[no-untyped-call]
            config, trust_remote_code=False, add_pooling_layer=False
        )
    except _LOADING_ERRORS as error:
        raise ConfigError(f"{folder / CONFIG_FILE}: cannot be built: {error}") from error
    return encoder.float()


def read_tokenizer(folder: Path) -> Any:
    """Read the encoder's tokenizer.

    Raises:
        ConfigError: unreadable, or without the tokens that open and close a text.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except _LOADING_ERRORS as error:
        raise ConfigError(f"{folder}: its tokenizer cannot be used: {error}") from error
    if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
        raise ConfigError(f"{folder}: its tokenizer has no CLS or no SEP token")
    return tokenizer


def digest_files(folder: Path, names: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Compute the sha256 (hex) of each named file.

    Raises:
        ConfigError: one cannot be read, or its name leads out of the folder.
    """
    digests = {}
    for name in names:
        if Path(name).name != name:
            raise ConfigError(f"{folder}: {name!r} is not a plain file name")
        try:
            digests[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise ConfigError(f"{folder / name}: cannot be read: {error.strerror}") from error
    return digests
