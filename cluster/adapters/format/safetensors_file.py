"""Reads a safetensors file without torch: header first, then tensors one at a time.

Layout: 8 bytes little-endian header length, a JSON object ``name -> {dtype, shape,
data_offsets}``, then the tensors' bytes without gaps.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from cluster.adapters.format.document import LFS_ADVICE, LFS_POINTER, parse_object
from cluster.adapters.format.shown import shown, shown_name
from cluster.errors import AdapterMalformed, AdapterPickle
from kernels.host_memory import allocate

MAX_HEADER_BYTES = 16 * 2**20
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
# torch.save's zip container, and a bare pickle of protocol 2 to 5.
_PICKLES = (b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
ITEM_BYTES |= {"U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header declares it."""

    name: str
    dtype: str  # safetensors' own name: "F32", "BF16", ...
    shape: tuple[int, ...]
    begin: int  # byte offset within the data section
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """Describes a file before its data is read."""

    tensors: tuple[TensorInfo, ...]  # sorted by name
    data_start: int  # file offset of the data section
    nbytes: int  # of the data section


def read_header(path: Path) -> SafetensorsHeader:
    """Read and verify a file's header; the data is not touched.

    Raises:
        AdapterMalformed: the file is missing, truncated, or its header is malformed.
        AdapterPickle: it is a pickle, not a safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                raise AdapterMalformed(f"{path}: expected a safetensors file, found {size} bytes")
            (length,) = struct.unpack("<Q", prefix)
            limit = min(MAX_HEADER_BYTES, size - 8)
            if length > limit and prefix.startswith(_PICKLES):
                raise AdapterPickle(
                    f"{path}: a pickle under the name of a safetensors file; never opened"
                )
            if prefix == LFS_POINTER[:8]:
                raise AdapterMalformed(f"{path}: {LFS_ADVICE}")
            if length > limit:
                raise AdapterMalformed(
                    f"{path}: header: expected at most {limit} bytes, found a length of {length}"
                )
            raw = file.read(length)
    except OSError as error:
        raise AdapterMalformed(f"{path}: cannot be read: {error.strerror}") from error
    return SafetensorsHeader(
        tensors=_parse_header(path, raw, size - 8 - length),
        data_start=8 + length,
        nbytes=size - 8 - length,
    )


def read_tensors(
    file: BinaryIO, path: Path, header: SafetensorsHeader
) -> Iterator[tuple[TensorInfo, memoryview]]:
    """Yield each tensor with its bytes, in name order; ``file`` is ``path`` opened for reading.

    All come in one buffer: a tensor's bytes are good until the next is asked for.

    Raises:
        AdapterMalformed: the file ends early or cannot be read.
    """
    longest = max((info.nbytes for info in header.tensors), default=0)
    shared = memoryview(bytearray(longest))
    for info in header.tensors:
        data = shared[: info.nbytes]
        _fill(data, file, header.data_start + info.begin, f"{path}: {shown_name(info.name)}")
        yield info, data


def read_data(file: BinaryIO, path: Path, header: SafetensorsHeader) -> memoryview:
    """Read the whole data section at once; ``TensorInfo.begin`` and ``end`` are offsets in it.

    Raises:
        AdapterMalformed: as ``read_tensors``.
    """
    data = allocate(header.nbytes)
    _fill(data, file, header.data_start, str(path))
    return data


def _fill(data: memoryview, file: BinaryIO, offset: int, where: str) -> None:
    try:
        file.seek(offset)
        found = file.readinto(data)  # type: ignore[attr-defined]
    except OSError as error:
        raise AdapterMalformed(f"{where}: cannot be read: {error.strerror}") from error
    if found != data.nbytes:
        raise AdapterMalformed(f"{where}: expected {data.nbytes} bytes, found {found}")


def _parse_header(path: Path, raw: bytes, data_bytes: int) -> tuple[TensorInfo, ...]:
    header = parse_object(raw, f"{path}: header")
    header.pop("__metadata__", None)
    tensors = tuple(_parse_tensor(path, name, header[name]) for name in sorted(header))
    position = 0
    for info in sorted(tensors, key=lambda info: (info.begin, info.end)):
        if info.begin != position:
            raise AdapterMalformed(
                f"{path}: {shown_name(info.name)}: expected its data at byte {position}, "
                f"found {info.begin}"
            )
        position = info.end
    if position != data_bytes:
        raise AdapterMalformed(f"{path}: expected {position} bytes of data, found {data_bytes}")
    return tensors


def _parse_tensor(path: Path, name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise AdapterMalformed(
            f"{path}: {shown_name(name)}: expected dtype, shape and data_offsets, "
            f"found {shown(entry)}"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise AdapterMalformed(
            f"{path}: {shown_name(name)}: expected a known dtype, found {shown(dtype)}"
        )
    if not _is_sizes(shape):
        raise AdapterMalformed(
            f"{path}: {shown_name(name)}: expected a shape of sizes, found {shown(shape)}"
        )
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise AdapterMalformed(
            f"{path}: {shown_name(name)}: expected [begin, end], found {shown(offsets)}"
        )
    expected = prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != expected:
        raise AdapterMalformed(
            f"{path}: {shown_name(name)}: expected {expected} bytes for {dtype}{shown(shape)}, "
            f"found {offsets[1] - offsets[0]}"
        )
    return TensorInfo(name, dtype, tuple(shape), offsets[0], offsets[1])


def _is_sizes(value: Any) -> bool:
    # JSON has no other integers than int itself, and bool is not one of them.
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
