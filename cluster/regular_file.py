"""Reading files that others write: whole, regular, of a bounded size, and never waiting."""

import os
import stat
from pathlib import Path

from cluster.errors import ConfigError

MAX_BYTES = 16 << 20


def read_regular(path: Path, most: int = MAX_BYTES) -> bytes:
    """Return the file's content.

    Args:
        path: links are followed.
        most: bytes.

    Raises:
        ConfigError: it cannot be read, is larger, or is a pipe or a device, which may never end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"{path}: cannot be read: expected a regular file")
            content = file.read(most + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > most:
        raise ConfigError(f"{path}: cannot be read: expected at most {most} bytes")
    return content
