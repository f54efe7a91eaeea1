"""The local cluster's log file: bounded, with nothing lost when it is turned over.

Only its name is moved. Processes write on into the file that they have open, and move to the new
one within a second or with their next line (``deployments/log_lines.py``).
"""

from pathlib import Path

MAX_BYTES = 32 * 2**20
KEPT_FILES = 4


def turn_over(path: Path, max_bytes: int = MAX_BYTES, kept: int = KEPT_FILES) -> bool:
    """Rename a file of ``max_bytes`` or more to ``NAME.1``, and older ones to the next number.

    Those beyond ``kept`` are deleted. False where the file is still small, or not there.
    """
    try:
        if path.stat().st_size < max_bytes:
            return False
    except FileNotFoundError:
        return False
    for number in range(kept - 1, 0, -1):
        older = numbered(path, number)
        if older.exists():
            older.replace(numbered(path, number + 1))
    path.replace(numbered(path, 1))
    return True


def numbered(path: Path, number: int) -> Path:
    """Return the name of an older file; 1 is the newest of them."""
    return path.with_name(f"{path.name}.{number}")


def log_files(path: Path, kept: int = KEPT_FILES) -> list[Path]:
    """Return the file and the older ones that are there, oldest first."""
    names = [numbered(path, number) for number in range(kept, 0, -1)]
    return [name for name in [*names, path] if name.exists()]
