"""What the store writes beside a version's files when it has checked them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from cluster.domain.adapter import AdapterManifest, BaseCheck
from cluster.errors import AdapterCorrupt

RECORD_FILE = "record.json"


class StoredRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The checked manifest, so that nobody has to read tensors to list the store."""

    manifest: AdapterManifest
    tags: tuple[str, ...]
    files: dict[str, int]  # file name -> bytes
    notes: tuple[str, ...] = ()  # what people should know of it
    base_check: BaseCheck | None = None  # what had to agree with the base; None: as configured

    @property
    def nbytes(self) -> int:
        """Bytes of the version's files, without this record."""
        return sum(self.files.values())


def encode_record(record: StoredRecord) -> bytes:
    """The record as JSON with sorted keys: equal records are equal bytes."""
    content: dict[str, Any] = {
        "manifest": asdict(record.manifest),
        "tags": record.tags,
        "files": record.files,
        "notes": record.notes,
        "base_check": record.base_check,
    }
    return msgspec.json.encode(content, order="sorted")


def read_record(folder: Path) -> StoredRecord:
    """The record of a stored version.

    Raises:
        FileNotFoundError: there is no such version, or it is being removed.
        AdapterCorrupt: the record cannot be understood.
    """
    path = folder / RECORD_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=StoredRecord)
    except msgspec.MsgspecError as error:
        raise AdapterCorrupt(f"{path}: {error}") from error
