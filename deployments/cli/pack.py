"""A PEFT folder as an archive to upload."""

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cluster.adapters.manifest import CONFIG_FILE, NOTES_FILE, PICKLE_FILE, WEIGHTS_FILE
from cluster.errors import ConfigError

SENT = (CONFIG_FILE, WEIGHTS_FILE, NOTES_FILE)


@contextmanager
def packed(path: Path) -> Iterator[BinaryIO]:
    """An archive as it is, or the adapter's files of a folder as a .tar in a temporary file.

    Raises:
        ConfigError: the folder has no adapter that can be sent.
    """
    if path.is_file():
        with path.open("rb") as archive:
            yield archive
        return
    files = [path / name for name in SENT if (path / name).is_file()]
    if path / WEIGHTS_FILE not in files:
        why = f"; {PICKLE_FILE} is a pickle" if (path / PICKLE_FILE).exists() else ""
        raise ConfigError(f"{path}: there is no {WEIGHTS_FILE}{why}")
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for file in files:
                tar.add(file, arcname=file.name)
        archive.seek(0)
        yield archive
