"""A PEFT folder as an archive to upload."""

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cluster.adapters.format.manifest import PICKLE_FILE, WEIGHTS_FILE
from cluster.adapters.sources.files import KEPT_FILES
from cluster.errors import ConfigError

MLX_FILE = "adapters.safetensors"


@contextmanager
def packed(path: Path) -> Iterator[BinaryIO]:
    """Open an archive, or pack the adapter's files of a folder into a temporary .tar.

    Links are followed, as in a snapshot of the hub's cache: they are the user's own.

    Raises:
        ConfigError: the folder has no adapter that can be sent.
    """
    if path.is_file():
        with path.open("rb") as archive:
            yield archive
        return
    files = [path / name for name in KEPT_FILES if (path / name).is_file()]
    if path / WEIGHTS_FILE not in files:
        why = f"; {PICKLE_FILE} is a pickle" if (path / PICKLE_FILE).exists() else ""
        if (path / MLX_FILE).exists():
            why = f"; {MLX_FILE} is in mlx's format, which is not served: convert it to PEFT's"
        raise ConfigError(f"{path}: there is no {WEIGHTS_FILE}{why}")
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
            for file in files:
                tar.add(file, arcname=file.name)
        archive.seek(0)
        yield archive
