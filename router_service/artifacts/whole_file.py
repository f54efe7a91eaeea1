"""Files that are there whole or not at all."""

import os
from pathlib import Path

PARTIAL = ".partial"
"""Ends the name of a file that is being written."""


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + PARTIAL)
    partial.write_bytes(content)
    os.replace(partial, path)
