"""The model cache on disk: atomic publishing, one fetcher at a time, remembered digests."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from cluster.base_model.digest import model_digest, weight_files

STAMP_FILE = "braid-model.json"


@contextmanager
def lock_for(target: Path) -> Iterator[None]:
    """Hold `target`'s file lock: one process of this machine at a time."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        yield


@contextmanager
def publish(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target` if the block succeeds and vanishes if not.

    The folder is next to `target`, so that the last step is one rename.
    """
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield partial
        stamp(partial)
        partial.chmod(0o755)
        for file in partial.iterdir():
            file.chmod(0o644)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def stamp(folder: Path) -> str:
    """Compute the model's digest and keep it in the folder, if the folder can be written."""
    digest = model_digest(folder)
    content = json.dumps({"digest": digest, "files": _sizes(folder)}, indent=2)
    # A read-only model folder is fine: its digest is computed at every start.
    with suppress(OSError):
        (folder / STAMP_FILE).write_text(content + "\n", encoding="utf-8")
    return digest


def read_stamp(folder: Path) -> str | None:
    """Return the digest kept in the folder, or None if there is none or the files have changed
    since."""
    try:
        content: dict[str, Any] = json.loads((folder / STAMP_FILE).read_text(encoding="utf-8"))
        known = content["digest"] if content["files"] == _sizes(folder) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if isinstance(known, str) else None


def _sizes(folder: Path) -> dict[str, list[int]]:
    """Return the size in bytes and modification time in ns of every file that the digest covers."""
    stats = {path.name: path.stat() for path in (folder / "config.json", *weight_files(folder))}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
