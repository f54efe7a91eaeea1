"""Chooses which files of a source are kept, and writes them to the disk."""

import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.blocking import run_to_end
from cluster.adapters.budget import ByteBudget
from cluster.adapters.format.chat_template import (
    MAX_TEMPLATE_BYTES,
    MAX_TOKENIZER_BYTES,
    TEMPLATE_FILE,
    TOKENIZER_FILE,
)
from cluster.adapters.format.document import MAX_DOCUMENT_BYTES, read_document
from cluster.adapters.format.labels import LABELS_FILE
from cluster.adapters.format.manifest import CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE
from cluster.adapters.format.safetensors_file import MAX_HEADER_BYTES
from cluster.errors import (
    AdapterMalformed,
    AdapterPickle,
    AdapterSizeMismatch,
    AdapterStoreError,
    AdapterStoreFull,
    AdapterTooLarge,
    AdapterUnsupported,
)

REQUIRED_FILES = (CONFIG_FILE, WEIGHTS_FILE)
KEPT_FILES = (*REQUIRED_FILES, LABELS_FILE, TEMPLATE_FILE, TOKENIZER_FILE)
"""All that is ever written; a README, a vocabulary, an optimizer's state stay where they are."""
CHUNK_BYTES = 2**20

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def disk_errors(where: str) -> Iterator[None]:
    """Turn an ``OSError`` of the store's disk into the store's error.

    Raises:
        AdapterStoreFull: no space or quota left.
        AdapterStoreError: any other failure.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise AdapterStoreFull(
                f"{where}: expected room in the store, found: {error.strerror}"
            ) from error
        raise AdapterStoreError(f"{where}: the store failed: {error.strerror or error}") from error


def check_size(name: str, nbytes: int, limits: AdapterLimits) -> None:
    """Refuse a file that is, or says it is, longer than its kind may be.

    Raises:
        AdapterTooLarge: with the limit and what was found.
    """
    own = {TEMPLATE_FILE: MAX_TEMPLATE_BYTES, TOKENIZER_FILE: MAX_TOKENIZER_BYTES}
    limit = own.get(name, MAX_DOCUMENT_BYTES)
    if name == WEIGHTS_FILE:
        limit = limits.max_bytes + MAX_HEADER_BYTES
    if nbytes > limit:
        raise AdapterTooLarge(f"{name}: expected at most {limit} bytes, found {nbytes}")


def check_complete(into: Path, *, where: str, pickle: bool) -> None:
    """Refuse what has no config or no weights; ``pickle``: whether a pickle of them was seen.

    Raises:
        AdapterPickle: the only weights are a pickle.
        AdapterUnsupported: it is of another format.
        AdapterMalformed: a file is missing.
    """
    weights = (into / WEIGHTS_FILE).exists()
    if not weights and (into / CONFIG_FILE).exists() and _is_of_mlx(into / CONFIG_FILE):
        raise AdapterUnsupported(
            f"{where}: an adapter in mlx's format, which is not served; convert it to PEFT's"
        )
    if not weights and pickle:
        raise AdapterPickle(
            f"{where}: {PICKLE_FILE}: pickle files are never opened; "
            f"save the adapter as {WEIGHTS_FILE}"
        )
    for name in REQUIRED_FILES:
        if not (into / name).exists():
            raise AdapterMalformed(f"{where}: {name}: expected a file, found none")


def _is_of_mlx(config: Path) -> bool:
    try:
        content = read_document(config)
    except AdapterMalformed:
        return False
    return "peft_type" not in content and "fine_tune_type" in content


class FileWriter:
    """One new file, every byte of which goes through the budget's write function."""

    def __init__(self, path: Path, budget: ByteBudget) -> None:
        self.nbytes = 0
        self._path = path
        self._budget = budget
        self._file: BinaryIO | None = None

    def __enter__(self) -> "FileWriter":
        with disk_errors(self._path.name):
            self._file = self._path.open("xb", buffering=0)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            with disk_errors(self._path.name):
                self._file.close()

    def write(self, data: bytes) -> None:
        """Append bytes to the file.

        Raises:
            AdapterStoreError: the disk refused.
        """
        if self._file is None:
            raise ValueError("not entered")
        with disk_errors(self._path.name):
            self._budget.write(self._file, data)
        self.nbytes += len(data)


async def save_stream(
    path: Path,
    chunks: AsyncIterator[bytes],
    budget: ByteBudget,
    *,
    kind: str,
    declared: int | None = None,
    where: str,
) -> None:
    """Write a stream into a new file, counted and checked against what was announced.

    ``kind`` is the kept file's name, or anything else for a packed archive.

    Raises:
        AdapterTooLarge: announced or received more than allowed.
        AdapterSizeMismatch: received another number of bytes than ``declared``.
        AdapterStoreError: the disk refused.
    """
    if declared is not None:
        budget.declare(declared, where)
        if kind in KEPT_FILES:
            check_size(kind, declared, budget.limits)
    received = 0
    pending = bytearray()
    with FileWriter(path, budget) as file:
        async for chunk in chunks:
            received += len(chunk)
            budget.receive(len(chunk), where)
            if declared is not None and received > declared:
                raise AdapterSizeMismatch(
                    f"{where}: expected the announced {declared} bytes, found more"
                )
            if kind in KEPT_FILES:
                check_size(kind, received, budget.limits)
            pending += chunk
            if len(pending) >= CHUNK_BYTES:
                await _flush(file, pending)
        await _flush(file, pending)
    if declared is not None and received != declared:
        raise AdapterSizeMismatch(
            f"{where}: expected the announced {declared} bytes, found {received}"
        )


async def _flush(file: FileWriter, pending: bytearray) -> None:
    if not pending:
        return
    data = bytes(pending)
    pending.clear()
    await run_to_end(lambda _: file.write(data))
