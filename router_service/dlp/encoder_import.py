"""Import of DLP-LoRA's published checkpoints into our artifact.

Their layout: a state dict with ``model.*`` (the Hugging Face encoder), ``norm.*``,
``Decode.weight`` [N, H] and ``Decode.bias`` [N]; and a list of adapters as text, one PEFT folder
per line, whose line number is the class id. The state dict is read without running what a pickle
may hold, and every key must be accounted for: the authors' own loader takes any file in silence.
"""

import re
from pathlib import Path, PureWindowsPath

import torch

from cluster.adapters.catalog import ALIAS_PATTERN
from cluster.errors import ConfigError
from router_service.artifacts import RouterManifest, save_artifact
from router_service.dlp.dlp_router import KIND, EncoderHyperparameters
from router_service.dlp.encoder import (
    CONFIG_FILE,
    ENCODER_FOLDER,
    TOKENIZER_FILES,
    check_max_tokens,
    digest_files,
    empty_encoder,
    load_encoder,
    read_encoder_config,
    read_tokenizer,
    tensor_shapes,
)
from router_service.outputs import claim_folder, writing
from router_service.state_dict import read_state_dict

_PREFIXES = {"model.": "encoder.", "norm.": "norm.", "Decode.": "linear."}
_UNUSED = ("model.pooler.", "model.embeddings.position_ids", "model.embeddings.token_type_ids")
"""Part of published files and of no effect: the pooling layer, and buffers that are counted out."""

_SHOWN = 5


def import_checkpoint(
    checkpoint: Path,
    encoder: Path,
    adapters: Path,
    out: Path,
    *,
    aliases: tuple[str, ...] | None = None,
    max_tokens: int = 256,
    overwrite: bool = False,
) -> RouterManifest:
    """Write an artifact of kind "dlp" that answers as the checkpoint does.

    Args:
        checkpoint: the state dict, ``.pth`` or ``.safetensors``.
        encoder: folder with the encoder's config.json and its tokenizer.
        adapters: the adapter list; an alias is the name of a line's folder.
        out: folder for the artifact.
        aliases: aliases in line order, where the folders' names will not do.
        max_tokens: longest text in the encoder's tokens, CLS and SEP among them.

    Raises:
        ConfigError: a file is not what it should be; the message has file and key.
    """
    claim_folder(out, overwrite=overwrite)
    candidates = _candidates(adapters, aliases)
    config = read_encoder_config(encoder)
    check_max_tokens(encoder, config, max_tokens)
    read_tokenizer(encoder)
    shapes = tensor_shapes(empty_encoder(encoder, config), config.hidden_size, len(candidates))
    tensors = _convert(checkpoint, read_state_dict(checkpoint), shapes, adapters, len(candidates))
    names = [CONFIG_FILE, *(name for name in TOKENIZER_FILES if (encoder / name).is_file())]
    hyperparameters = EncoderHyperparameters(
        max_tokens=max_tokens, files=digest_files(encoder, names)
    )
    contents = {name: (encoder / name).read_bytes() for name in names}
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    manifest = RouterManifest(
        kind=KIND,
        candidates=candidates,
        hyperparameters=hyperparameters.model_dump(mode="json"),
        data_digest=digest_files(checkpoint.parent, [checkpoint.name])[checkpoint.name],
    )
    with writing(out):
        (out / ENCODER_FOLDER).mkdir(exist_ok=True)
        for name, content in contents.items():
            (out / ENCODER_FOLDER / name).write_bytes(content)
        load_encoder(out, arrays, hyperparameters, len(candidates))
        return save_artifact(out, manifest, arrays)


def _candidates(listing: Path, aliases: tuple[str, ...] | None) -> tuple[str, ...]:
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{listing}: cannot be read: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise ConfigError(f"{listing}:{number}: empty; the line number is the class id")
    if not lines:
        raise ConfigError(f"{listing}: names no adapters")
    names = aliases or tuple(PureWindowsPath(line.strip()).name for line in lines)
    if len(names) != len(lines):
        raise ConfigError(f"{listing}: has {len(lines)} lines, but {len(names)} aliases are given")
    for number, name in enumerate(names, 1):
        if not re.fullmatch(ALIAS_PATTERN, name):
            raise ConfigError(f"{listing}:{number}: {name!r} cannot be an alias; give aliases")
        if names.index(name) != number - 1:
            first = names.index(name) + 1
            raise ConfigError(f"{listing}:{number}: {name!r} is line {first} too; give aliases")
    return names


def _convert(
    path: Path,
    state: dict[str, torch.Tensor],
    shapes: dict[str, tuple[int, ...]],
    listing: Path,
    candidates: int,
) -> dict[str, torch.Tensor]:
    """The artifact's tensors in fp32; every key of the file is used or known to be unused."""
    found: dict[str, torch.Tensor] = {}
    unknown: list[str] = []
    for key, tensor in state.items():
        if key.startswith(_UNUSED):
            continue
        name = next(
            (new + key[len(old) :] for old, new in _PREFIXES.items() if key.startswith(old)), ""
        )
        if name in shapes:
            found[name] = tensor
        else:
            unknown.append(key)
    missing = [_published(name) for name in shapes if name not in found]
    for keys, what in ((missing, "lacks"), (unknown, "has unknown keys")):
        if keys:
            more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            raise ConfigError(f"{path}: {what}: {', '.join(keys[:_SHOWN])}{more}")
    classes = found["linear.weight"].shape[0]
    if classes != candidates:
        raise ConfigError(
            f"{path}: Decode.weight has {classes} classes, but {listing} has {candidates} lines"
        )
    for name, tensor in found.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ConfigError(
                f"{path}: {_published(name)} has shape {list(tensor.shape)}, "
                f"not {list(shapes[name])}"
            )
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise ConfigError(f"{path}: {_published(name)}: values that are not finite numbers")
    return {name: tensor.float().contiguous() for name, tensor in found.items()}


def _published(name: str) -> str:
    """The published name of one of our tensors."""
    for old, new in _PREFIXES.items():
        if name.startswith(new):
            return old + name[len(new) :]
    return name
