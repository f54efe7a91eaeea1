"""Adapter folders packed as a client packs them."""

import io
import tarfile
from pathlib import Path


def tar_of_folder(folder: Path) -> bytes:
    """Return a tar of the folder's own files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    return buffer.getvalue()
