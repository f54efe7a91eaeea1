"""The identity of a base model: a sha256 over its configuration and weights."""

import hashlib
import json
from pathlib import Path
from typing import Any

from cluster.errors import ModelSourceError

# Left out of the identity: who wrote the file, not what the model computes.
_IGNORED_CONFIG_KEYS = frozenset({"transformers_version", "torch_dtype", "dtype", "use_cache"})
_CHUNK_BYTES = 1 << 20
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


def model_digest(folder: Path) -> str:
    """Return the sha256 (hex) of a model folder's config and safetensors files.

    Tensors count by name, dtype, shape and bytes, in name order: neither their order in a file,
    nor sharding, nor a file's metadata changes the digest. Config keys that begin with an
    underscore or say only which library wrote them are ignored.

    Raises:
        ModelSourceError: the config or the weights are missing or unreadable.
    """
    digest = hashlib.sha256(b"braid-model-1\n")
    digest.update(_canonical_config(folder / "config.json"))
    tensors = sorted(
        (name, entry, path, start)
        for path in weight_files(folder)
        for name, (entry, start) in _read_header(path).items()
    )
    for name, entry, path, start in tensors:
        dtype, shape, begin, end = entry
        digest.update(json.dumps([name, dtype, shape]).encode() + b"\n")
        _update_from(digest, path, start + begin, end - begin)
    return digest.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """Return the folder's safetensors files.

    Raises:
        ModelSourceError: there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelSourceError(f"{folder}: has no .safetensors file")
    return files


_Entry = tuple[str, list[int], int, int]


def _canonical_config(path: Path) -> bytes:
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kept = {
            key: value
            for key, value in config.items()
            if not key.startswith("_") and key not in _IGNORED_CONFIG_KEYS
        }
    except (OSError, ValueError, AttributeError) as error:
        raise ModelSourceError(f"{path}: cannot be read: {error}") from error
    return json.dumps(kept, sort_keys=True).encode() + b"\n"


def _read_header(path: Path) -> dict[str, tuple[_Entry, int]]:
    """Return name -> (dtype, shape, begin, end) and the offset those bytes are counted from."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MAX_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        return {
            name: ((item["dtype"], item["shape"], *item["data_offsets"]), 8 + length)
            for name, item in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelSourceError(f"{path}: not a safetensors file: {error}") from error


def _update_from(digest: "hashlib._Hash", path: Path, start: int, length: int) -> None:
    with path.open("rb") as file:
        file.seek(start)
        while length > 0:
            chunk = file.read(min(length, _CHUNK_BYTES))
            if not chunk:
                raise ModelSourceError(f"{path}: ends before its last tensor")
            digest.update(chunk)
            length -= len(chunk)
