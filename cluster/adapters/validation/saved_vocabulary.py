"""Compares embeddings and output heads that PEFT saved with an adapter with the base's own.

PEFT saves them where the vocabulary grew or the output head is a target, and writes them into the
base when it loads the adapter. Where they are the base's own values that changes nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cluster.adapters.format.safetensors_file import (
    ITEM_BYTES,
    SafetensorsHeader,
    TensorInfo,
    read_header,
)
from cluster.errors import AdapterUnsupported

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_CHUNK = 2**20  # values compared at once


def check_copy(
    where: str, info: TensorInfo, data: memoryview, copied: str, base: Path | None
) -> bool:
    """Refuse a tensor of the file that is not the base's own.

    Values must be equal, or those of the base rounded to the file's type where that is narrower.
    Returns whether any is rounded: PEFT would put it into the base, which is served as it is.

    Args:
        where: begins the message.
        info: the file's tensor.
        data: its bytes.
        copied: the base's tensor that it would replace.
        base: folder of the base's weights.

    Raises:
        AdapterUnsupported: it differs, or the base's weights are not at hand.
    """
    found = None if base is None else _find(base, copied)
    if found is None:
        raise AdapterUnsupported(
            f"{where}: {info.name}: embeddings in the file are served where they are the base's "
            f"own, and the base's {copied} is not at hand; save the adapter with "
            "save_embedding_layers=False"
        )
    path, header, own = found
    if own.shape != info.shape:
        raise AdapterUnsupported(
            f"{where}: {info.name}: the vocabulary was resized, to {list(info.shape)} from the "
            f"base's {list(own.shape)}, which is not served; train with the base's vocabulary"
        )
    if own.dtype not in _NUMPY:
        raise AdapterUnsupported(f"{where}: {info.name}: the base's is {own.dtype}, not comparable")
    differing, rounded = _compare(info, data, path, header, own)
    if differing:
        raise AdapterUnsupported(
            f"{where}: {info.name}: trained embeddings are not served; {differing} of "
            f"{info.shape[0]} rows differ from the base's"
        )
    return rounded


def _find(base: Path, name: str) -> tuple[Path, SafetensorsHeader, TensorInfo] | None:
    """Return the base's tensor; the embedding for a head that the base has tied."""
    found = {}
    for path in sorted(base.glob("*.safetensors")):
        header = read_header(path)
        for info in header.tensors:
            if info.name in (name, EMBEDDING):
                found[info.name] = (path, header, info)
    if name in found:
        return found[name]
    return found.get(EMBEDDING) if name == HEAD else None


def _compare(
    info: TensorInfo, data: memoryview, path: Path, header: SafetensorsHeader, own: TensorInfo
) -> tuple[int, bool]:
    """Return the rows that differ, and whether any value is the base's apart from rounding."""
    width = info.shape[1] if len(info.shape) > 1 else 1
    rows = max(1, _CHUNK // max(1, width))
    item = ITEM_BYTES[info.dtype]
    differing, rounded, at = 0, False, 0
    for raw in _chunks(path, header, own, rows * width):
        count = len(raw) // ITEM_BYTES[own.dtype]
        mine = np.frombuffer(data[at * item : (at + count) * item], dtype=_NUMPY[info.dtype])
        theirs = np.frombuffer(raw, dtype=_NUMPY[own.dtype])
        equal = _equal(mine, info.dtype, theirs, own.dtype)
        same = _widened(mine, info.dtype) == _widened(theirs, own.dtype)
        rounded = rounded or bool((equal & ~same).any())
        differing += int((~equal.reshape(-1, width).all(axis=1)).sum())
        at += count
    return differing, rounded


def _chunks(path: Path, header: SafetensorsHeader, own: TensorInfo, values: int) -> Iterator[bytes]:
    size = values * ITEM_BYTES[own.dtype]
    with path.open("rb") as file:
        file.seek(header.data_start + own.begin)
        left = own.nbytes
        while left:
            raw = file.read(min(size, left))
            if not raw:
                raise AdapterUnsupported(f"{path}: the base's weights end early")
            left -= len(raw)
            yield raw


def _equal(mine: Any, dtype: str, theirs: Any, own: str) -> Any:
    """Compare by value; the base's values may have been rounded to the file's type."""
    with np.errstate(over="ignore"):
        rounded = _rounded(_widened(theirs, own), dtype)
    return _widened(mine, dtype) == _widened(rounded, dtype)


def _widened(values: Any, dtype: str) -> Any:
    """Convert to float64, which has every value of each type."""
    if dtype == "BF16":
        return (values.astype("<u4") << 16).view("<f4").astype("<f8")
    return values.astype("<f8")


def _rounded(values: Any, dtype: str) -> Any:
    """Round float64 to a type's nearest values, ties to even."""
    if dtype != "BF16":
        return values.astype(_NUMPY[dtype])
    bits = values.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
